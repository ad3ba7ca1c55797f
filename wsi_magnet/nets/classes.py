"""Labels and colours of classes by name: canonical for known names, free ones for others; and changes of both."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.labels import BACKGROUND_CLASS, NOT_ANALYSED_CLASS, LabelClass
from wsi_magnet.nets.spec import ClassInfo

Color = tuple[int, int, int]

_CANONICAL: dict[str, tuple[int, Color]] = {
    "background": (0, (255, 255, 255)),
    "stroma": (1, (150, 200, 150)),
    "benign epithelium": (2, (100, 150, 255)),
    "benign gland": (2, (100, 150, 255)),
    "gleason 3": (3, (255, 220, 40)),
    "gleason 4": (4, (255, 140, 0)),
    "gleason 5": (5, (215, 25, 28)),
}
"""Label and colour by lower-case name."""

_RESERVED = frozenset(value for value, _ in _CANONICAL.values())

_PALETTE: tuple[Color, ...] = (
    (228, 26, 28),
    (55, 126, 184),
    (77, 175, 74),
    (152, 78, 163),
    (255, 127, 0),
    (166, 86, 40),
    (247, 129, 191),
    (153, 153, 153),
    (27, 158, 119),
    (230, 171, 2),
    (117, 112, 179),
    (102, 166, 30),
)
"""Easily distinguished colours, after ColorBrewer's qualitative sets."""


_CONTROL = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, of bytes that are not text, and of ends of lines."""


def has_control_characters(text: str) -> bool:
    """True for a name that would break lines and tables."""
    return any(unicodedata.category(letter) in _CONTROL for letter in text)


def problem_of(name: str, value: int) -> str | None:
    """Reason why a class of that value may not be given the name, or None. Classes of earlier bundles may have it."""
    if has_control_characters(name):
        return "has control characters"
    if _key(name) == NOT_ANALYSED_CLASS.name:
        return "stands for pixels that could not be read"
    if _key(name) == BACKGROUND_CLASS.name and value != BACKGROUND_CLASS.value:
        return f"stands for the value {BACKGROUND_CLASS.value}, not {value}"
    return None


def _key(name: str) -> str:
    """A name as it is compared: in lower case, with single spaces."""
    return " ".join(name.lower().split())


def unnamed_classes(count: int) -> tuple[ClassInfo, ...]:
    """Classes numbered from 1, with labels from 1, for a network of which only their number is known."""
    return tuple(ClassInfo(f"class {i + 1}", i + 1, palette_color(i)) for i in range(count))


def named_classes(names: Sequence[str]) -> tuple[ClassInfo, ...]:
    """Classes of the given names, in the network's order.

    "background" is 0, "stroma" 1, "benign epithelium" and "benign gland" 2, "Gleason 3", "4", "5" are 3, 4, 5; others
    get the free labels in order, from 6 where any of these is among the names. Raises BundleError for a name that is
    empty, repeated in either case, or with control characters, for "not analysed", and for two names of one label.
    """
    keys = [_key(name) for name in names]
    if "" in keys or len(set(keys)) < len(keys):
        raise BundleError(f"class names must not be empty or repeated; got {', '.join(map(repr, names))}")
    taken = [_CANONICAL[key][0] for key in keys if key in _CANONICAL]
    if len(set(taken)) < len(taken):
        raise BundleError(f"two class names have the same label in {', '.join(map(repr, names))}; rename one")
    # Beside canonical names, a free class with a canonical label would be mistaken for the canonical class.
    used = _RESERVED if set(taken) - {0} else {0}
    free = iter([value for value in range(1, 255) if value not in used])
    colors = iter(map(palette_color, range(len(names))))
    made = tuple(
        ClassInfo(name, *(_CANONICAL[key] if key in _CANONICAL else (next(free), next(colors))))
        for name, key in zip(names, keys, strict=True)
    )
    for one in made:
        if problem := problem_of(one.name, one.value):
            raise BundleError(f"class name {one.name!r} {problem}; choose another")
    return made


def palette_color(index: int) -> Color:
    """Colour of the class with that number: from the palette, then from darker rounds of it."""
    round_, place = divmod(index, len(_PALETTE))
    red, green, blue = (round(channel * 0.7**round_) for channel in _PALETTE[place])
    return red, green, blue


@dataclass(frozen=True, slots=True)
class ClassChanges:
    """New names and colours of classes; values stay, so that no pixel changes."""

    names: Mapping[str, str] = field(default_factory=dict)
    """New name by the present one."""
    colors: Mapping[str, Color] = field(default_factory=dict)
    """New colour, RGB, by the present name or the new one."""

    def of(self, classes: Sequence[LabelClass], renamed: Mapping[str, str] | None = None) -> tuple[LabelClass, ...]:
        """The classes with their changes.

        renamed: present name of a class by each of its earlier ones; a change of these is one that was made already and
        is accepted, so that one that was interrupted can be repeated. Raises ConfigError for a class that does not
        exist, and for a new name that is empty, used twice in either case, or no name of a class of that value
        (`problem_of`).
        """
        if swapped := set(self.names) & set(self.names.values()):
            raise ConfigError(f"{min(swapped)!r} is both an old and a new name; rename in two steps")
        known = {one.name for one in classes}
        made = {old for old, new in (renamed or {}).items() if self.names.get(old) == new and new in known}
        for name in (*self.names, *(self.colors.keys() - self.names.keys() - set(self.names.values()))):
            if name not in known | made:
                raise ConfigError(f"there is no class {name!r}; the classes are {', '.join(sorted(known))}")
        changed = tuple(
            LabelClass(one.value, new, self.colors.get(one.name, self.colors.get(new, one.color)))
            for one in classes
            for new in [self.names.get(one.name, one.name)]
        )
        keys = [_key(one.name) for one in changed]
        for one, before in zip(changed, classes, strict=True):
            if one.name == before.name:  # a bundle or result that exists
                continue
            if not one.name.strip() or keys.count(_key(one.name)) > 1:
                raise ConfigError(f"class name {one.name!r} is empty or used twice; give each class a name of its own")
            if problem := problem_of(one.name, one.value):
                raise ConfigError(f"class name {one.name!r} {problem}; choose another")
        return changed


def parse_color(text: str) -> Color:
    """RGB of "#4a90d9". Raises ConfigError."""
    digits = text.strip().removeprefix("#")
    if not re.fullmatch("[0-9a-fA-F]{6}", digits):
        raise ConfigError(f"colour {text!r} is not six hexadecimal digits, such as #4a90d9")
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue
