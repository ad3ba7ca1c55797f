"""Tiles lie where their pixels do, and hold the means of what is tissue in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely.geometry import shape

from tests.export.qupath_rules import features_of, violations
from tests.export.results import Made, make_result
from wsi_magnet.errors import ConfigError
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.write import ExportOptions, export
from wsi_magnet.storage.output import FileOptions


def tiles(folder: Path, options: ExportOptions | None = None) -> list[dict[str, Any]]:
    (path,) = export(folder, folder.parent / "x.geojson", "tiles", options).files
    assert violations(path) == []
    return features_of(path)


def made(folder: Path, made: Made | None = None) -> tuple[Path, np.ndarray]:
    """Two halves: on the left Gleason 3 for sure, on the right Gleason 4 with 0.6; nothing in the lower half."""
    p = np.zeros((4, 64, 128), np.uint8)
    p[2, :32, :64], p[3, :32, 64:], p[2, :32, 64:] = 255, 153, 102
    uncertainty = np.where(p.sum(axis=0) > 0, 51, 0).astype(np.uint8)
    make_result(folder, np.zeros((64, 128), np.uint8), made, probabilities=p, uncertainty=uncertainty)
    return folder, p


def test_every_tile_of_tissue_has_the_mean_of_each_class(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "result")
    found = [f["properties"]["measurements"] for f in tiles(folder, ExportOptions(tile_um=32))]
    left = {"Stroma": 0.0, "benign epithelium": 0.0, "Gleason 3": 1.0, "Gleason 4": 0.0, "uncertainty": 0.2}
    right = {"Stroma": 0.0, "benign epithelium": 0.0, "Gleason 3": 0.4, "Gleason 4": 0.6, "uncertainty": 0.2}
    assert found == [left, left, right, right]


def test_tiles_are_of_their_likeliest_class(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "result")
    names = [f["properties"]["classification"]["name"] for f in tiles(folder, ExportOptions(tile_um=64))]
    assert names == ["Gleason 3", "Gleason 4"]


def test_tiles_lie_in_level_0_pixels(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "result", Made(slide_mpp=0.25, bounds_xy=(1000, 2000)))
    options = ExportOptions(ObjectOptions(frame="level0"), tile_um=32)
    boxes = [shape(f["geometry"]).bounds for f in tiles(folder, options)]
    assert boxes[:2] == [(1000, 2000, 1128, 2128), (1128, 2000, 1256, 2128)]


def test_means_come_from_the_coarsest_level_that_has_enough_pixels(tmp_path: Path) -> None:
    """On a larger image, by the slow way: every pixel of a tile."""
    rng = np.random.default_rng(0)
    p = rng.integers(0, 64, (4, 1024, 1024), np.uint8)
    make_result(tmp_path / "result", np.zeros((1024, 1024), np.uint8), probabilities=p)
    found = [f["properties"]["measurements"]["Stroma"] for f in tiles(tmp_path / "result", ExportOptions(tile_um=64))]
    blocks = p.reshape(4, 16, 64, 16, 64).sum(axis=(2, 4), dtype=float)
    assert found == pytest.approx((blocks[0] / blocks.sum(axis=0)).ravel().tolist(), abs=0.01)


def test_a_tile_has_the_same_id_in_every_export_and_none_is_locked(tmp_path: Path) -> None:
    """Without ids QuPath lays tiles that are dropped twice over each other."""
    folder, _ = made(tmp_path / "result")
    first, again = (
        tiles(folder, ExportOptions(tile_um=32, locked=locked, files=FileOptions(overwrite=True)))
        for locked in (False, True)
    )
    assert [f["id"] for f in first] == [f["id"] for f in again]
    assert len({f["id"] for f in first}) == 4
    assert ["isLocked" in f["properties"] for f in (*first, *again)] == [False] * 4 + [True] * 4


def test_without_probabilities_there_are_no_tiles(tmp_path: Path) -> None:
    make_result(tmp_path / "result", np.ones((64, 64), np.uint8))
    with pytest.raises(ConfigError, match="run again with --keep probabilities"):
        tiles(tmp_path / "result")
