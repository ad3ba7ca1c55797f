"""A coding: the mapping of an annotation's labels (values, colours or names) to the classes that they may mean.

As text: "0=0|1; 1=2|6; #ff0000=6; Tumor=3|4|5; *=ignore". The left side is the annotation's label: a value, a colour,
the name of a QuPath class or ASAP group, or * for every label that is not listed. The right side is the label values
or names of the possible classes, separated by |, or "ignore".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wsi_magnet.annotations.types import MOST_CLASSES, full_set
from wsi_magnet.errors import AnnotationError
from wsi_magnet.labels import NOT_ANALYSED_NAME
from wsi_magnet.nets.spec import ClassInfo

IGNORE_VALUE = 255
"""A pixel of this value is unlabelled, unless the coding gives it a meaning, as for masks of 0 and 255."""

OTHERS = "*"


@dataclass(frozen=True, slots=True)
class Coding:
    """The meaning of one annotation's labels, in terms of a list of classes."""

    classes: tuple[ClassInfo, ...]
    entries: dict[str, int] = field(default_factory=dict)
    """Label sets by label: a value as text, a colour "#rrggbb" or a name, in lower case; "*" is every other label."""

    @staticmethod
    def parse(text: str, classes: Sequence[ClassInfo]) -> Coding:
        """Read a coding. Raises AnnotationError, also for the name of an unknown class, which is likely a typing error.

        Values that are no class of the list are left out of a set; a set that becomes empty is kept, and `set_of`
        refuses its label where it occurs.
        """
        if len(classes) > MOST_CLASSES:
            raise AnnotationError(f"{len(classes)} classes are too many; a label set holds {MOST_CLASSES}")
        entries = {}
        for part in filter(None, (piece.strip() for piece in text.split(";"))):
            label, equals, meaning = (one.strip() for one in part.rpartition("="))
            if not equals or not label or not meaning:
                raise AnnotationError(f"coding {part!r} is not LABEL=CLASS|CLASS or LABEL=ignore")
            entries[_key(label)] = _set_of_meaning(meaning, classes)
        return Coding(tuple(classes), entries)

    @property
    def ignored(self) -> int:
        """The label set of unlabelled pixels."""
        return full_set(len(self.classes))

    def set_of(self, label: int | str) -> int:
        """The label set of one label: a value, a colour "#rrggbb" or a name.

        Without "*", a label that is not listed means the class of that value or name. Raises AnnotationError for an
        unknown label, and for one whose classes are not in the list.
        """
        found = self.entries.get(_key(str(label)))
        if found is None and label in (IGNORE_VALUE, NOT_ANALYSED_NAME):
            return self.ignored
        if found is None:
            found = self.entries.get(OTHERS)
        if found is None:
            found = self._own_meaning(label)
        if found is None or found == 0:
            names = ", ".join(f"{c.value} {c.name}" for c in self.classes)
            why = "unknown label" if found is None else "no class in use has the label"
            raise AnnotationError(
                f"{why} {label!r}; the classes are {names}. Give its meaning, or {label}=ignore, in the labels column"
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
            raise AnnotationError(f"coding {meaning!r} has an empty class between two |")
        matching = [i for i, c in enumerate(classes) if str(c.value) == key or _key(c.name) == key]
        if not matching and not key.isdigit():
            names = ", ".join(f"{c.value} {c.name}" for c in classes)
            raise AnnotationError(f"coding {meaning!r}: no class is called {one.strip()!r}; the classes are {names}")
        found |= sum(1 << i for i in matching)
    return found
