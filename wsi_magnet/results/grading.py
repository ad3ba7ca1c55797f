"""Areas and percentages from pixels by label and, if the classes allow, the Gleason score; pure arithmetic.

The score follows the ISUP 2014 and 2019 consensus for biopsies, applied to areas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wsi_magnet.labels import LabelClass
from wsi_magnet.values import documented

PATTERNS = (3, 4, 5)
"""Label values of the Gleason patterns."""

NOISE_SHARE, NOISE_MM2 = 0.005, 0.05
"""Limits below both of which a pattern is taken for noise: share of the tumour, and area in mm²."""

SECONDARY_SHARE = 0.05
"""Least share of the tumour for a lower-grade pattern to count as secondary; a higher grade always counts."""


@documented
@dataclass(frozen=True, slots=True)
class ClassArea:
    """Area of a class."""

    name: str
    """Name of the class."""
    value: int
    """Label in the mask."""
    area_mm2: float
    """Area, in mm²."""
    percent: float
    """Percentage of the analysed area."""


@documented
@dataclass(frozen=True, slots=True)
class Grade:
    """Gleason grading by area."""

    primary: int
    """Pattern with the largest area, 3 to 5."""
    secondary: int
    """Pattern that counts second, 3 to 5."""
    score: int
    """Sum of both."""
    grade_group: int
    """ISUP grade group, 1 to 5."""


@dataclass(frozen=True, slots=True)
class Gleason(Grade):
    """Gleason grading with the areas that it comes from."""

    tumour_mm2: float
    percent_by_pattern: Mapping[int, float]


def areas_of(summary: Mapping[str, Any]) -> dict[str, ClassArea]:
    """Areas in the contents of a summary.json, by the class's name."""
    return {
        one["name"]: ClassArea(one["name"], one["value"], float(one["area_mm2"]), float(one["percent"]))
        for one in summary.get("classes", ())
    }


def class_areas(label_pixels: Mapping[int, int], classes: Sequence[LabelClass], mpp: float) -> list[ClassArea]:
    """Area of every class, present or not, in the bundle's order."""
    pixel_mm2 = (mpp / 1000) ** 2
    total = sum(label_pixels.get(c.value, 0) for c in classes)
    return [
        ClassArea(c.name, c.value, count * pixel_mm2, 100 * count / total if total else 0.0)
        for c in classes
        for count in [label_pixels.get(c.value, 0)]
    ]


def gleason(area_mm2: Mapping[int, float]) -> Gleason | None:
    """Score and grade group from the area of each pattern (3, 4, 5); None without tumour.

    The primary pattern is the largest. The secondary is the highest grade above the primary, if any; else the largest
    other one with at least 5 % of the tumour; else the primary again.
    """
    total = sum(area_mm2.get(p, 0.0) for p in PATTERNS)
    found = {
        p: a for p in PATTERNS for a in [area_mm2.get(p, 0.0)] if a > 0 and (a >= NOISE_SHARE * total or a >= NOISE_MM2)
    }
    if not found:
        return None
    primary = max(found, key=lambda p: (found[p], p))
    others = [p for p in found if p != primary and (p > primary or found[p] >= SECONDARY_SHARE * total)]
    secondary = max(others, default=primary)
    percent = {p: 100 * area_mm2.get(p, 0.0) / total for p in PATTERNS}
    return Gleason(primary, secondary, primary + secondary, grade_group(primary, secondary), total, percent)


def grade_group(primary: int, secondary: int) -> int:
    """ISUP grade group of a pair of patterns."""
    score = primary + secondary
    if score == 7:
        return 2 if primary == 3 else 3
    return {6: 1, 8: 4}.get(score, 5)


def is_pattern(name: str, value: int) -> bool:
    """True for the class of a Gleason pattern, by its value and its name."""
    return value in PATTERNS and name.lower() == f"gleason {value}"


def can_grade(classes: Iterable[LabelClass | ClassArea]) -> bool:
    """True if the classes include patterns 3 and 4, which every grade needs."""
    return set(PATTERNS[:2]) <= {one.value for one in classes if is_pattern(one.name, one.value)}


def summarise(
    label_pixels: Mapping[int, int], classes: Sequence[LabelClass], mpp: float, not_analysed: int
) -> dict[str, Any]:
    """Plain values for summary.json.

    label_pixels: pixels by label value over the analysed cells, at `mpp`; background, 0, is no area of a class.
    not_analysed: label of pixels that no scale
    could read.
    """
    areas = class_areas(label_pixels, [c for c in classes if c.value], mpp)
    by_value = {a.value: a.area_mm2 for a in areas}
    grade = gleason(by_value) if can_grade(classes) else None
    return {
        "mpp": mpp,
        "classes": [asdict(a) for a in areas],
        "analysed_mm2": sum(by_value.values()),
        "not_analysed_mm2": label_pixels.get(not_analysed, 0) * (mpp / 1000) ** 2,
        "gleason": asdict(grade) if grade else None,
    }
