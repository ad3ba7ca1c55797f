"""Times and memory beside kept results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluate.made import bundle_at, paint, patchwork, result_of
from wsi_magnet.errors import ResultMismatchError
from wsi_magnet.evaluate.kept import FILE, costs, read_row, write_row
from wsi_magnet.evaluate.prediction import Prediction
from wsi_magnet.evaluate.worker import PeakMemory, Segmented


def test_costs_of_several_calls_are_joined(tmp_path: Path) -> None:
    assert read_row(tmp_path) is None
    write_row(tmp_path, [Segmented(tmp_path / "a", 1.5)], PeakMemory(7, None))
    write_row(tmp_path, [Segmented(tmp_path / "row 5" / "b", 2.5), Segmented(tmp_path / "a", 1.0)], PeakMemory(5, 3))
    row = read_row(tmp_path)
    assert row is not None
    assert dict(row.seconds) == {"a": 1.0, "row 5/b": 2.5}
    assert row.peak == PeakMemory(7, 3)


def test_costs_are_those_of_the_results(tmp_path: Path) -> None:
    bundle = bundle_at(tmp_path)
    folders = [
        result_of(paint(tmp_path / f"{name}.png", patchwork(seed)), bundle, tmp_path / "row" / place)
        for seed, (name, place) in enumerate((("a", ""), ("b", "row 3")))
    ]
    results = [Prediction(one) for one in folders]
    assert costs(results) == (None, None)
    write_row(tmp_path / "row", [Segmented(folders[0], 1.5)], PeakMemory(7, None))
    assert costs(results) == (None, None)
    write_row(tmp_path / "row", [Segmented(folders[1], 2.5)], PeakMemory(9, None))
    assert costs(results) == ((1.5, 2.5), PeakMemory(9, None))
    assert costs(results[::-1]) == ((2.5, 1.5), PeakMemory(9, None))


@pytest.mark.parametrize("text", ["{", "[]", '{"seconds": {"a": -1}, "ram": 1, "gpu": null}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ResultMismatchError, match="is damaged"):
        read_row(tmp_path)
