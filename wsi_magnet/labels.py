"""Label values of a mask with their names and colours, and the two values that every mask may hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LabelClass:
    """A label of a mask: its `value`, `name` and `color` (RGB, 0 to 255)."""

    value: int
    name: str
    color: tuple[int, int, int]


NOT_ANALYSED = 255
"""Label of pixels that could not be read at any scale."""

NOT_ANALYSED_NAME = "Not analysed*"
"""Its class in QuPath, which leaves classes with a "*" at their end out of percentages."""
NOT_ANALYSED_CLASS = LabelClass(NOT_ANALYSED, "not analysed", (128, 128, 128))

BACKGROUND_CLASS = LabelClass(0, "background", (0, 0, 0))


def with_reserved(classes: Sequence[LabelClass]) -> list[LabelClass]:
    """The classes, with the reserved values 0 and 255 where no class has them, ordered by value."""
    reserved = (r for r in (BACKGROUND_CLASS, NOT_ANALYSED_CLASS) if r.value not in {c.value for c in classes})
    return sorted([*classes, *reserved], key=lambda c: c.value)
