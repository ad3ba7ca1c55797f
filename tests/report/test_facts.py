"""Facts of a result that a page shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.export.results import CLASSES, Made, damage, make_result
from wsi_magnet.errors import ResultMismatchError, StoreError
from wsi_magnet.report.facts import grading, read_facts
from wsi_magnet.results.grading import class_areas
from wsi_magnet.results.journal import read_history

PIXELS = 1_000_000
"""Of 1 µm: a square millimetre."""


def grades(**mm2: float) -> list[tuple[int, int] | None]:
    """(primary, secondary) by the rule and without its noise floor, of areas g3, g4, g5."""
    classes = [*CLASSES[:2], *(type(CLASSES[0])(v, f"Gleason {v}", (1, 1, 1)) for v in (3, 4, 5))]
    found = grading(tuple(class_areas({int(k[1]): round(a * PIXELS) for k, a in mm2.items()}, classes, 1.0)))
    assert found is not None
    return [(g.primary, g.secondary) if g else None for g in (found.by_rule, found.without_floor)]


@pytest.mark.parametrize(
    ("mm2", "expected"),
    [
        ({"g3": 50.0, "g4": 0.04}, [(3, 3), (3, 4)]),  # a speck of 4 in much 3 is noise ...
        ({"g3": 50.0, "g4": 0.06}, [(3, 4), (3, 4)]),  # ... and a larger one is not
        ({"g4": 1.0, "g3": 0.04}, [(4, 4), (4, 4)]),  # the 5 % of a lower pattern are no noise floor
        ({"g3": 1e-6}, [(3, 3), (3, 3)]),
        ({"g5": 10.0, "g4": 9.0, "g3": 1e-6}, [(5, 4), (5, 4)]),
        ({}, [None, None]),
    ],
)
def test_the_grade_with_and_without_its_noise_floor(
    mm2: dict[str, float], expected: list[tuple[int, int] | None]
) -> None:
    assert grades(**mm2) == expected


def test_no_grade_without_gleason_classes() -> None:
    assert grading(tuple(class_areas({1: 5}, CLASSES[:2], 1.0))) is None


def test_the_cells_of_each_scale_as_its_journal_says(graded: Path) -> None:
    facts = read_facts(graded)
    history, scales = read_history(graded / "journal.jsonl"), facts.record.scales
    rows, cols = facts.refined_at.shape
    for row in range(rows):
        for col in range(cols):
            expected = 0
            for index in range(len(scales)):
                side = 2 ** (len(scales) - 1 - index)
                cells = [cell for tile in history.of_scale(index) for cell in tile.cells]
                cells = [cell for cell in cells if (cell.row, cell.col) == (row // side, col // side)]
                expected = index + 1 if any(c.refined for c in cells) else expected
            assert facts.refined_at[row, col] == expected


def test_shares_of_what_was_refined_are_those_of_the_summary(graded: Path) -> None:
    facts = read_facts(graded)
    assert [(s.cells, s.refined, s.complete) for s in facts.scales] == [
        (p["cells"], p["cells_refined"], True) for p in facts.source.summary["scales"]
    ]


def test_before_the_end_areas_are_counted_on_the_mask(tmp_path: Path) -> None:
    mask = np.zeros((900, 700), np.uint8)
    mask[100:500, 100:600] = 3
    mask[700:800, :200] = 255
    make_result(tmp_path / "r", mask, Made(state="running", first_level=1))
    facts = read_facts(tmp_path / "r")
    assert facts.state == "stopped", "no process works on it"
    assert facts.analysed_mm2 == pytest.approx(0.2)
    assert facts.not_analysed_mm2 == pytest.approx(0.02)
    assert {a.value: a.area_mm2 for a in facts.areas if a.area_mm2} == {3: pytest.approx(0.2)}


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no result folder"):
        read_facts(tmp_path)


def test_a_summary_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.ones((8, 8), np.uint8))
    damage(tmp_path / "r", summary={"classes": [{}], "not_analysed_mm2": 0})
    with pytest.raises(ResultMismatchError, match=r"run\.json"):
        read_facts(tmp_path / "r")
