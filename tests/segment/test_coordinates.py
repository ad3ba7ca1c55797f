"""No coordinate is ever off: painted squares come back in place, from slide to mask, at every mpp, with bounds."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.few import slow_except
from tests.runs import MadeRun, free_spec, labels_of, run_serially, write_bundle
from tests.slides_made import write_pyramid, write_scn
from wsi_magnet.config import RunConfig
from wsi_magnet.geometry import Size

COLOURS = np.array([[230, 90, 90], [90, 230, 90], [90, 90, 230]], np.uint8)
"""Of labels 1, 2 and 3 of the free bundle below."""

SIDE_PX = 61
"""Of a painted square, in level-0 pixels: a prime, so that edges fall anywhere on the scales' grids."""


def painted(size: Size) -> np.ndarray:
    """uint8 (H, W): the label of each level-0 pixel."""
    squares = np.random.default_rng(3).integers(1, 4, (size.height // SIDE_PX + 1, size.width // SIDE_PX + 1))
    return np.kron(squares, np.ones((SIDE_PX, SIDE_PX), int))[: size.height, : size.width].astype(np.uint8)


def wrong_beside_edges(mask: np.ndarray, labels: np.ndarray, downsample: float) -> int:
    """Mask pixels with another label than the paint half a mask pixel round their centre says."""
    wrong = np.ones(mask.shape, bool)
    for dy in (-0.5, 0.0, 0.5):
        for dx in (-0.5, 0.0, 0.5):
            rows = ((np.arange(mask.shape[0]) + 0.5 + dy) * downsample).clip(0, labels.shape[0] - 1).astype(int)
            cols = ((np.arange(mask.shape[1]) + 0.5 + dx) * downsample).clip(0, labels.shape[1] - 1).astype(int)
            wrong &= mask != labels[np.ix_(rows, cols)]
    return int(wrong.sum())


@pytest.fixture(scope="module")
def colour_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The strongest colour is the label, and every pixel is refined."""
    spec = free_spec(
        mpps=(2.0, 1.0, 0.5, 0.25),
        refiner_of=(0, 0, 0),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        select_above=(0.0, 0.0, 0.0),
        refine_above=(0.0, 0.0, 0.0),
        temperature=(1.0, 1.0, 1.0, 1.0),
    )
    return write_bundle(tmp_path_factory.mktemp("bundles") / "colour.safetensors", spec)


@pytest.mark.parametrize(
    ("bounded", "mpp"),
    slow_except([(False, 0.2528), (True, 0.263)], product((False, True), (0.25, 0.2528, 0.5, 0.263))),
)
def test_squares_come_back_in_place(tmp_path: Path, colour_bundle: Path, mpp: float, bounded: bool) -> None:
    size = Size(1501, 1103)
    labels = painted(size)
    image = COLOURS[labels - 1]
    if bounded:
        slide = write_scn(tmp_path / "s.scn", image, whole=Size(4001, 3007), corner_xy=(1013, 777), mpp=mpp)
    else:
        slide = write_pyramid(tmp_path / "s.tif", image, mpp=mpp, factors=(2, 4))
    config = RunConfig(tissue=False, mpp=mpp)
    folder = run_serially(MadeRun(slide, colour_bundle), tmp_path / "out", config).folder
    run = json.loads((folder / "run.json").read_text())
    assert (run["slide"]["bounds_xywh"][:2] == [1013, 777]) == bounded
    finest = run["scales"][-1]["mpp"]
    assert finest == (0.5 if mpp == 0.5 else 0.25)
    mask = labels_of(folder)
    assert mask.shape == tuple(reversed(run["scales"][-1]["size_wh"]))
    assert wrong_beside_edges(mask, labels, finest / mpp) == 0


def test_every_pass_is_in_place(tmp_path: Path, colour_bundle: Path) -> None:
    """The check above at coarser scales: a slide is given a coarser mpp, so that the ladder ends earlier."""
    labels = np.kron(painted(Size(610, 488)), np.ones((2, 2), np.uint8))
    slide = write_pyramid(tmp_path / "s.tif", COLOURS[labels - 1], mpp=0.25, factors=(2, 4))
    config = RunConfig(tissue=False, keep_probabilities=True)
    folder = run_serially(MadeRun(slide, colour_bundle), tmp_path / "out", config).folder
    for level in range(3):
        mask = labels_of(folder, level)
        interior = wrong_beside_edges(mask, labels, 2.0**level)
        assert interior <= 0.002 * mask.size, "2x2 majorities of corners where three colours meet"


def test_the_translation_places_the_mask_in_the_slide(tmp_path: Path, colour_bundle: Path) -> None:
    slide = write_scn(
        tmp_path / "s.scn",
        COLOURS[painted(Size(900, 700)) - 1],
        whole=Size(4001, 3007),
        corner_xy=(1013, 777),
        mpp=0.25,
    )
    folder = run_serially(MadeRun(slide, colour_bundle), tmp_path / "out", RunConfig(tissue=False)).folder
    entry = json.loads((folder / "mask.ome.zarr" / ".zattrs").read_text())["multiscales"][0]
    for level, dataset in enumerate(entry["datasets"]):
        scale, translation = dataset["coordinateTransformations"]
        mpp = 0.25 * 2**level
        assert scale["scale"] == [mpp, mpp]
        corner_um = [t - mpp / 2 + 0.25 / 2 for t in translation["translation"]]
        assert corner_um == pytest.approx([777 * 0.25, 1013 * 0.25])
