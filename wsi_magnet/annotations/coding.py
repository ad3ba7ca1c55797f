"""A coding: which classes each label of an annotation may mean, by its own values, colours or names.

As text: "0=0|1; 1=2|6; #ff0000=6; Tumor=3|4|5; *=ignore". On the left stands what the annotation holds: a value, a
colour, the name of a QuPath class or ASAP group, or * for all that is not listed. On the right stand label values or
class names, with | between those that it may be, or "ignore".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wsi_magnet.annotations.types import MOST_CLASSES, full_set
from wsi_magnet.errors import AnnotationError
from wsi_magnet.nets.spec import ClassInfo

IGNORE_VALUE = 255
"""A pixel of this value is not labelled, unless the coding says what it means, as it may where masks are 0 and 255."""

OTHERS = "*"


@dataclass(frozen=True, slots=True)
class Coding:
    """How the labels of one annotation are to be read, in terms of a list of classes."""

    classes: tuple[ClassInfo, ...]
    entries: dict[str, int] = field(default_factory=dict)
    """Sets by label: a value as text, a colour "#rrggbb", or a name, all in lower case; "*" is the rest."""

    @staticmethod
    def parse(text: str, classes: Sequence[ClassInfo]) -> Coding:
        """Read a coding. Values among the meanings that are no class of the list are left out of a set; if that leaves
        nothing the label is kept with an empty set, and `set_of` refuses it where it occurs. Raises AnnotationError,
        also for a name that no class has, which is likelier a slip of the pen.
        """
        if len(classes) > MOST_CLASSES:
            raise AnnotationError(f"{len(classes)} classes are more than the {MOST_CLASSES} that a label set can hold")
        entries = {}
        for part in filter(None, (piece.strip() for piece in text.split(";"))):
            label, equals, meaning = (one.strip() for one in part.rpartition("="))
            if not equals or not label or not meaning:
                raise AnnotationError(f"coding {part!r} is not LABEL=CLASS|CLASS or LABEL=ignore")
            entries[_key(label)] = _set_of_meaning(meaning, classes)
        return Coding(tuple(classes), entries)

    @property
    def ignored(self) -> int:
        """The set of what is not labelled."""
        return full_set(len(self.classes))

    def set_of(self, label: int | str) -> int:
        """The set of one label: a value, a colour "#rrggbb" or a name.

        What is not listed, where there is no "*", means itself: a value the class of that value, a name the class of
        that name. Raises AnnotationError for a label that is neither, or whose classes are none of the list's.
        """
        found = self.entries.get(_key(str(label)))
        if found is None and label == IGNORE_VALUE:
            return self.ignored
        if found is None:
            found = self.entries.get(OTHERS)
        if found is None:
            found = self._own_meaning(label)
        if found is None or found == 0:
            names = ", ".join(f"{c.value} {c.name}" for c in self.classes)
            why = "unknown label" if found is None else "none of the classes is meant by label"
            raise AnnotationError(
                f"{why} {label!r}; the classes are {names}: say what it means, or {label}=ignore, in the labels column"
            )
        return found

    def _own_meaning(self, label: int | str) -> int | None:
        # QuPath derives classes: "Tumor: Gleason 3" is a Gleason 3.
        name = _key(str(label)).rsplit(": ", 1)[-1]
        for i, one in enumerate(self.classes):
            if one.value == label or (isinstance(label, str) and _key(one.name) == name):
                return 1 << i
        return None


def _key(label: str) -> str:
    return " ".join(label.lower().split())


def _set_of_meaning(meaning: str, classes: Sequence[ClassInfo]) -> int:
    if _key(meaning) == "ignore":
        return full_set(len(classes))
    found = 0
    for one in meaning.split("|"):
        key = _key(one)
        if not key:
            raise AnnotationError(f"coding {meaning!r} has an empty class between its bars")
        matching = [i for i, c in enumerate(classes) if str(c.value) == key or _key(c.name) == key]
        if not matching and not key.isdigit():
            names = ", ".join(f"{c.value} {c.name}" for c in classes)
            raise AnnotationError(f"coding {meaning!r}: no class is called {one.strip()!r}; the classes are {names}")
        found |= sum(1 << i for i in matching)
    return found
