"""Text for people: areas, percentages, times, durations, counts."""

from __future__ import annotations

import pytest

from wsi_magnet import text as texts


@pytest.mark.parametrize(
    ("mm2", "text"),
    [(0, "0.000 mm²"), (1e-9, "< 0.001 mm²"), (0.65, "0.650 mm²"), (3.4066, "3.41 mm²"), (1234.5, "1,234 mm²")],
)
def test_areas(mm2: float, text: str) -> None:
    assert texts.area_text(mm2) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.0 %"), (0.01, "< 0.1 %"), (34.29, "34.3 %"), (99.99, "99.9 %"), (100, "100.0 %")]
)
def test_shares_that_are_nearly_nothing_or_all_are_not_spelt_as_such(value: float, text: str) -> None:
    assert texts.percent_text(value) == text


@pytest.mark.parametrize(
    ("text", "said"), [("2026-11-25T14:24:08+00:00", "25 November 2026, 14:24 UTC"), ("not yet", "not yet")]
)
def test_times(text: str, said: str) -> None:
    assert texts.time_text(text) == said


@pytest.mark.parametrize(("seconds", "text"), [(41.2, "41 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float, text: str) -> None:
    assert texts.duration_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "more", "text"), [(1, "", "1 cell"), (0, "", "0 cells"), (2000, "", "2,000 cells"), (2, "men", "2 men")]
)
def test_counts(count: int, more: str, text: str) -> None:
    assert texts.counted(count, "cell" if more == "" else "man", more) == text


@pytest.mark.parametrize(
    ("name", "text"), [("hibou", "near it: hibou-l, hibou-b"), ("zzz", "there are: hibou-b, hibou-l and 1 more")]
)
def test_names_to_choose_from(name: str, text: str) -> None:
    assert texts.near_names(name, ("hibou-b", "hibou-l", "uni"), 2) == text
