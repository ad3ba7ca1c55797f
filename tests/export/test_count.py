"""The number of objects that is told before an export is near the one that comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.export.results import make_result
from wsi_magnet.export.count import estimated_objects
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.write import ExportOptions, export
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import FileOptions


def mosaic(folder: Path, side: int = 1600) -> Result:
    """Squares of 8 to 40 pixels on a stroma that fills the mask, which is three cells wide and a bit."""
    rng = np.random.default_rng(0)
    mask = np.ones((side, side), np.uint8)
    for y in range(0, side - 50, 50):
        for x in range(0, side - 50, 50):
            n = int(rng.integers(8, 40))
            mask[y : y + n, x : x + n] = 3
    return make_result(folder, mask)


@pytest.mark.parametrize("options", [ObjectOptions(), ObjectOptions(min_area_um2=400, classes=("Gleason 3",))])
def test_it_is_near_the_number_of_regions(tmp_path: Path, options: ObjectOptions) -> None:
    source = mosaic(tmp_path / "result")
    made = export(tmp_path / "result", tmp_path / "x.geojson", "geojson", ExportOptions(options)).objects
    assert estimated_objects(source, options) == pytest.approx(made, rel=0.1)


def test_blocks_that_are_not_counted_are_like_those_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = mosaic(tmp_path / "result")
    every = estimated_objects(source, ObjectOptions())
    monkeypatch.setattr("wsi_magnet.export.count._BLOCKS", 4)
    assert estimated_objects(source, ObjectOptions()) == pytest.approx(every, rel=0.3)


def test_an_empty_mask_has_none(tmp_path: Path) -> None:
    assert estimated_objects(make_result(tmp_path / "r", np.zeros((64, 64), np.uint8)), ObjectOptions()) == 0


def test_many_annotations_are_told_before_the_export_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_magnet.export.write.MANY_ANNOTATIONS", 100)
    mosaic(tmp_path / "result")
    target = tmp_path / "x.geojson"
    told: list[tuple[str, bool]] = []
    exported = export(tmp_path / "result", target, "geojson", None, lambda text: told.append((text, target.exists())))
    assert [(text.split()[:3], there) for text, there in told] == [(["about", "962", "annotations"], False)]
    assert exported.notes == ()


def test_many_detections_are_no_reason_for_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_magnet.export.write.MANY_ANNOTATIONS", 100)
    mosaic(tmp_path / "result")
    told: list[str] = []
    options = ExportOptions(object_type="detection")
    assert export(tmp_path / "result", tmp_path / "x.geojson", "geojson", options, told.append).notes == ()
    assert told == []


def test_parts_are_told_to_be_dropped_one_by_one(tmp_path: Path) -> None:
    """Of several files that are dropped together QuPath reads the first, without a word."""
    mosaic(tmp_path / "result", 400)
    options = ExportOptions(files=FileOptions(part_bytes=3000))
    (note,) = export(tmp_path / "result", tmp_path / "x.geojson", "geojson", options).notes
    assert "one by one, or use --to qupath-script" in note
    assert export(tmp_path / "result", tmp_path / "y.groovy", "qupath-script", options).notes == ()
