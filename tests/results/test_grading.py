"""Areas and grades: the rules one by one."""

from __future__ import annotations

import pytest

from wsi_magnet.labels import LabelClass
from wsi_magnet.results.grading import gleason, grade_group, summarise

CLASSES = [
    LabelClass(v, n, (0, 0, 0))
    for v, n in [(0, "background"), (1, "stroma"), (3, "Gleason 3"), (4, "Gleason 4"), (5, "Gleason 5")]
]


@pytest.mark.parametrize(
    ("areas", "pair", "group"),
    [
        ({3: 10.0}, (3, 3), 1),
        ({3: 8.0, 4: 2.0}, (3, 4), 2),
        ({3: 2.0, 4: 8.0}, (4, 3), 3),
        ({4: 10.0}, (4, 4), 4),
        ({3: 6.0, 5: 4.0}, (3, 5), 4),
        ({3: 4.0, 5: 6.0}, (5, 3), 4),
        ({4: 6.0, 5: 4.0}, (4, 5), 5),
        ({5: 10.0}, (5, 5), 5),
        ({4: 9.7, 3: 0.3}, (4, 4), 4),  # a lower grade below 5 % is ignored
        ({3: 9.8, 4: 0.2}, (3, 4), 2),  # a higher grade counts from the noise floor on
        ({4: 6.0, 3: 3.0, 5: 1.0}, (4, 5), 5),  # three patterns: the highest of the others
        ({3: 0.1, 4: 0.0001}, (3, 3), 1),  # below both floors: noise
    ],
)
def test_rules(areas: dict[int, float], pair: tuple[int, int], group: int) -> None:
    grade = gleason(areas)
    assert grade is not None
    assert (grade.primary, grade.secondary) == pair
    assert grade.grade_group == group == grade_group(*pair)
    assert grade.score == sum(pair)
    assert sum(grade.percent_by_pattern.values()) == pytest.approx(100)


def test_no_tumour_no_grade() -> None:
    assert gleason({}) is None
    assert gleason({3: 0.0, 4: 0.0}) is None


def test_areas_are_in_mm2_of_the_analysed_part() -> None:
    summary = summarise({0: 1_000_000, 3: 3_000_000, 255: 500_000}, CLASSES, mpp=0.5, not_analysed=255)
    assert summary["analysed_mm2"] == pytest.approx(0.75)
    assert summary["not_analysed_mm2"] == pytest.approx(0.125)
    assert [c["percent"] for c in summary["classes"]] == [0.0, 100.0, 0.0, 0.0]  # background is no class of tissue
    assert summary["gleason"]["score"] == 6


def test_other_classes_have_no_grade() -> None:
    glands = [LabelClass(2, "benign gland", (0, 0, 0)), LabelClass(3, "tumour gland", (0, 0, 0))]
    assert summarise({3: 100}, glands, 0.5, 255)["gleason"] is None


def test_nothing_analysed() -> None:
    summary = summarise({}, CLASSES, 0.5, 255)
    assert summary["analysed_mm2"] == 0
    assert all(c["percent"] == 0 for c in summary["classes"])
