"""Runs of bundles with smaller cells: dense references, and the same masks whatever the tiles and workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.few import slow_except
from tests.nets.made import networks_of
from tests.runs import LocalSummary, MadeRun, free_spec, labels_of, run_serially, write_bundle
from tests.segment.test_failures import LosesFinest
from tests.segment.test_one_scale import (
    PRODUCTS,
    assert_grey,
    assert_mask,
    dense,
    enlarged,
    everything,
    off,
    one_scale,
    seen,
    stored,
    widest_gap,
)
from tests.slides_made import GLASS_RGB, stained, write_pyramid
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.geometry import Size, ceil_div
from wsi_magnet.magnet.selection import mixing_weight
from wsi_magnet.magnet.step import magnet_step
from wsi_magnet.magnet.uncertainty import query_score
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.refiner import RefinementModule
from wsi_magnet.report.facts import read_facts
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.journal import read_history
from wsi_magnet.segment.slide import segment_slide

SMALL = (128, 256)
SIZE = Size(700, 420)
"""Six by four cells of 128 at 0.5, three by two of 256; two tiles of 512, or one of 1024."""


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slide") / "small.tif", stained(SIZE), mpp=0.5, factors=(2, 4))


@pytest.fixture(scope="module")
def half_empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Glass on the right and below, so that chunks and tiles are divided between tissue and glass."""
    image = stained(SIZE, seed=3)
    image[:, 400:] = GLASS_RGB
    image[300:, :] = GLASS_RGB
    return write_pyramid(tmp_path_factory.mktemp("slide") / "half.tif", image, mpp=0.5, factors=(2, 4))


@pytest.mark.parametrize(
    ("cell_px", "mpp"),
    slow_except([(128, 0.5), (256, 1.0)], [(128, 0.5), (128, 1.0), (256, 0.5), (256, 1.0)]),
)
def test_one_scale_is_the_dense_reference(slide: Path, tmp_path: Path, cell_px: int, mpp: float) -> None:
    spec = one_scale(mpp, cell_px=cell_px)
    made = MadeRun(slide, write_bundle(tmp_path / "one.safetensors", spec))
    summary = run_serially(made, tmp_path, everything(512))
    assert not summary.failures
    side = round(cell_px * mpp / 0.5)
    assert summary.summary["scales"][0]["cells"] == ceil_div(SIZE.width, side) * ceil_div(SIZE.height, side)
    assert_mask(summary.folder, 0, dense(slide, spec))
    assert_grey(summary.folder, 0, dense(slide, spec))


@pytest.mark.parametrize("cell_px", slow_except([128], SMALL))
def test_refined_it_is_the_published_step_on_the_whole_slide(slide: Path, tmp_path: Path, cell_px: int) -> None:
    spec, median_px = free_spec(cell_px=cell_px), 3
    y, *finer = seen(slide, spec)
    grid_hw, thresholds = (int(y.shape[-2]), int(y.shape[-1])), []
    for fine in finer:
        y = enlarged(stored(y), fine)
        score = query_score(coarse=y, refined=fine, grid_hw=grid_hw, median_px=median_px)
        thresholds.append(widest_gap(score))
        y = magnet_step(coarse=y, refined=fine, selected=mixing_weight(score, thresholds[-1], 0))
    spec = free_spec(cell_px=cell_px, select_above=tuple(thresholds), median_px=median_px)
    made = MadeRun(slide, write_bundle(tmp_path / "free.safetensors", spec))
    found = run_serially(made, tmp_path, everything(512)).folder
    assert max(off(found, y, spec, edge_px=16)) < 1e-4


def refining(folder: Path, cell_px: int) -> Path:
    """A bundle with refiners that look round a pixel, and that refines a part of the cells."""
    spec = free_spec(
        cell_px=cell_px,
        network_args={"gain": 4.0},
        refiner="magnet",
        refiner_of=(0, 1),
        median_px=3,
        select_above=(0.2, 0.3),
        refine_above=(0.1, 0.1),
    )
    backbone, refiners = networks_of(spec)
    for refiner in refiners:
        assert isinstance(refiner, RefinementModule)
        with torch.inference_mode():
            fine, coarse = torch.randn(2, 1, 3, 64, 64).mul(2).softmax(dim=2)
            refiner.seg_conv.weight *= 4 / refiner.eval()(fine=fine, coarse=coarse).std()
    path = folder / f"refining-{cell_px}.safetensors"
    save_bundle(path, spec, backbone, refiners)
    return path


def pixels_of(folder: Path) -> dict[str, npt.NDArray[np.uint8]]:
    return {f"{name} {level}": labels_of(folder, level, name) for name in PRODUCTS for level in range(3)}


def assert_same(one: Path, other: Path) -> None:
    found, expected = pixels_of(one), pixels_of(other)
    assert [name for name in found if not np.array_equal(found[name], expected[name])] == []


def refined_and_all(summary: LocalSummary) -> tuple[int, int]:
    """Cells of the finer scales."""
    scales = summary.summary["scales"][1:]
    return sum(one["cells_refined"] for one in scales), sum(one["cells"] for one in scales)


@pytest.mark.parametrize(
    ("cell_px", "refine"),
    slow_except([(128, "auto")], [(cell_px, refine) for cell_px in SMALL for refine in ("auto", 0.4)]),
)
def test_neither_tiles_nor_workers_matter(half_empty: Path, tmp_path: Path, cell_px: int, refine: Any) -> None:
    made = MadeRun(half_empty, refining(tmp_path, cell_px))
    kept: dict[str, Any] = {
        "refine": refine,
        "keep_probabilities": True,
        "keep_uncertainty": True,
        "precision": "fp32",
    }
    small = run_serially(made, tmp_path / "512", RunConfig(tile_px=512, **kept))
    refined, cells = refined_and_all(small)
    assert 0 < refined < cells
    assert len(np.unique(labels_of(small.folder))) > 2, "the comparisons below must be able to fail"
    large = run_serially(made, tmp_path / "1024", RunConfig(tile_px=1024, **kept))
    assert_same(large.folder, small.folder)
    config = RunConfig(tile_px=512, ngff="0.5", **kept)
    threads = segment_slide(
        made.slide, tmp_path / "threads", bundle=made.bundle, config=config, execution=Execution("cpu")
    )
    assert isinstance(threads.folder, Path)
    assert_same(threads.folder, small.folder)


def test_smaller_cells_take_context_and_nothing_else(half_empty: Path, tmp_path: Path) -> None:
    """Networks that look at one pixel make the same mask in cells of any side."""
    small, large = (
        run_serially(
            MadeRun(half_empty, write_bundle(tmp_path / f"{cell_px}.safetensors", free_spec(cell_px=cell_px))),
            tmp_path / str(cell_px),
            everything(512),
        ).folder
        for cell_px in (128, 512)
    )
    assert_same(small, large)


def test_results_have_the_side_of_their_cells(slide: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "free.safetensors", free_spec(cell_px=128))
    summary = run_serially(MadeRun(slide, bundle), tmp_path, everything(512))
    written = json.loads((summary.folder / "run.json").read_text())
    assert written["bundle"]["cell_px"] == 128
    record = ResultFolder(summary.folder).read_run()
    assert record is not None
    assert record.bundle.cell_px == 128
    facts = read_facts(summary.folder)
    assert facts.refined_at.tolist() == [[3] * 6] * 4
    finest = summary.summary["scales"][-1]
    assert facts.scales[-1].changed_percent == pytest.approx(100 * finest["changed_share"])
    tiles = read_history(ResultFolder(summary.folder).journal).of_scale(2)
    changed = sum(cell.changed_px or 0 for tile in tiles for cell in tile.cells)
    assert 0 < changed == round(finest["changed_share"] * 24 * 128**2)


def test_a_tile_that_no_worker_survives_keeps_the_coarser_result(slide: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "free.safetensors", free_spec(cell_px=128))
    lost = segment_slide(slide, tmp_path / "lost", bundle=bundle, config=everything(512), execution=LosesFinest())
    assert len(lost.failures) == 24, "a line for each cell"
    coarser = MadeRun(
        slide, write_bundle(tmp_path / "stays.safetensors", free_spec(cell_px=128, refine_above=(0.0, 1.0)))
    )
    stays = run_serially(coarser, tmp_path / "stays", everything(512))
    assert np.array_equal(labels_of(lost.folder), labels_of(stays.folder))
