"""Background at the pixel: by colour near the border of the tissue map, or by the networks where a class means it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from tests.few import slow_except
from tests.runs import MadeRun, free_spec, labels_of, local, run_serially, write_bundle
from tests.slides_made import glass, write_pyramid
from wsi_magnet.config import Refine, RunConfig
from wsi_magnet.geometry import Size
from wsi_magnet.nets.spec import ClassInfo

MPP = 0.5
SIZE = Size(2600, 2100)
"""1.3 mm by 1.05 mm."""

STROMA_RGB = (224, 168, 196)


def blob() -> npt.NDArray[np.bool_]:
    """A section whose border lies on no grid, with a lumen that it surrounds."""
    y, x = np.mgrid[0 : SIZE.height, 0 : SIZE.width]
    angle = np.arctan2(y - 1043, x - 1187)
    radius = np.hypot(y - 1043, x - 1187)
    return np.asarray(radius < 700 + 90 * np.sin(5 * angle) + 25 * np.sin(17 * angle))


def lumen() -> npt.NDArray[np.bool_]:
    y, x = np.mgrid[0 : SIZE.height, 0 : SIZE.width]
    return np.asarray(np.hypot(y - 1101, x - 1223) < 150)


def slide_of(path: Path, tissue: npt.NDArray[np.bool_]) -> Path:
    rng = np.random.default_rng(0)
    image = glass(SIZE).astype(np.float64)
    image[tissue] = STROMA_RGB + rng.normal(0, 4, (int(tissue.sum()), 3))
    return write_pyramid(path, np.clip(image, 0, 255).astype(np.uint8), mpp=MPP, factors=(4,))


@pytest.mark.parametrize(("refine", "blurred_px"), slow_except([(0.0, 8)], [("all", 4), (0.0, 8)]))
def test_without_a_background_class_colour_decides_at_the_border(
    tmp_path: Path, refine: Refine, blurred_px: int
) -> None:
    """No staircase of the map's pixels, 16 of the mask's here, is left; lumens belong to tissue."""
    tissue = blob() & ~lumen()
    made = MadeRun(slide_of(tmp_path / "a.tif", tissue), write_bundle(tmp_path / "b.safetensors", free_spec()))
    found = run_serially(made, tmp_path / "out", RunConfig(tile_px=1024, refine=refine)).folder
    labelled = labels_of(local(found)) > 0
    surely_in = ndimage.binary_erosion(blob(), iterations=blurred_px)
    surely_out = ~ndimage.binary_dilation(blob(), iterations=blurred_px)
    assert labelled.shape == blob().shape
    assert labelled[surely_in].mean() > 0.9999
    assert labelled[surely_out].mean() < 0.0001


def test_with_a_background_class_the_networks_decide_near_tissue(tmp_path: Path) -> None:
    """Green is background: glass is green, and so is a lumen. Ink beside tissue is labelled, ink far off is not."""
    spec = free_spec(
        classes=(
            ClassInfo("red", 1, (220, 60, 60)),
            ClassInfo("background", 0, (0, 0, 0)),
            ClassInfo("blue", 3, (0, 0, 9)),
        ),
        mean=(0.8, 0.62, 0.8),
        select_above=(0.0, 0.0),
    )
    image = glass(SIZE).astype(np.float64)
    image[400:1000, 200:700] = STROMA_RGB
    image[600:700, 400:500] = (240, 240, 240)
    near, far = np.s_[600:700, 800:900], np.s_[600:700, 1800:1900]  # 50 and 550 µm from tissue
    image[near] = image[far] = (40, 60, 180)
    slide = write_pyramid(tmp_path / "a.tif", image.astype(np.uint8), mpp=MPP, factors=(4,))
    made = MadeRun(slide, write_bundle(tmp_path / "b.safetensors", spec))
    found = labels_of(local(run_serially(made, tmp_path / "out", RunConfig(tile_px=1024, refine="all")).folder))
    assert (found[410:590, 210:690] == 1).mean() > 0.99
    assert (found[610:690, 410:490] == 0).all()
    assert (found[near][10:-10, 10:-10] == 3).all()
    assert not found[far].any()
    assert not found[:390].any()
