"""A run against dense references, pixel for pixel; and one with refiners against itself, however it is cut."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.nets.made import networks_of
from tests.runs import MadeRun, free_spec, labels_of, run_serially, write_bundle
from tests.slides_made import GLASS_RGB, stained, write_pyramid
from wsi_magnet.config import RunConfig
from wsi_magnet.engine import Engine
from wsi_magnet.events import Event, PassFinished
from wsi_magnet.geometry import Size
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.refiner import RefinementModule
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.plan import Frame
from wsi_magnet.scales import build_ladder
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.stitch import CellPixels

Pixels = npt.NDArray[np.uint8]

ALL = {"tissue": False, "keep_probabilities": True, "keep_uncertainty": True}
PRODUCTS = ("mask", "probabilities", "uncertainty")


def one_scale(mpp: float) -> BundleSpec:
    """No refiner at all."""
    return free_spec(mpps=(mpp,), refiner_of=(), select_above=(), refine_above=(), temperature=(1.0,))


def dense(slide: Path, spec: BundleSpec) -> tuple[Pixels, npt.NDArray[np.float64]]:
    """Labels and probabilities of the whole coarsest scale: the strongest normalised colour; of equals, the first."""
    with closing(open_slide(slide)) as reader:
        (scale, *_) = build_ladder(spec.mpps, reader.info.require_mpp(), reader.info.canvas).scales
        picture = read_scale(reader, scale, scale.grid)
    logits = (picture / 255.0 - np.array(spec.mean)) / np.array(spec.std)
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    # In whole numbers: 255 * the difference of two means is none, so red and blue alone can be equal.
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    to_green = 255 * (spec.mean[0] - spec.mean[1])
    strongest = np.where(green + to_green > np.maximum(red, blue), 1, np.where(blue > red, 2, 0))
    values = np.array([c.value for c in spec.classes], np.uint8)
    return values[strongest], np.moveaxis(odds / odds.sum(axis=-1, keepdims=True), -1, 0)


def assert_dense(folder: Path, level: int, slide: Path, spec: BundleSpec, products: tuple[str, ...] = PRODUCTS) -> None:
    labels, probabilities = dense(slide, spec)
    assert {1, 2, 3} <= set(np.unique(labels).tolist())
    assert np.array_equal(labels_of(folder, level, "mask"), labels)
    if "probabilities" in products:
        stored = labels_of(folder, level, "probabilities").astype(float)
        assert np.abs(stored - 255 * probabilities).max() <= 0.51
    if "uncertainty" in products:
        second, first = np.sort(probabilities, axis=0)[-2:]
        found = labels_of(folder, level, "uncertainty").astype(float)
        assert np.abs(found - 255 * (1 - (first - second))).max() <= 1.01


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three by two cells at 0.5, the last of them cut off; the coarser levels are not whole."""
    image = stained(Size(1301, 907))
    return write_pyramid(tmp_path_factory.mktemp("slides") / "one.tif", image, mpp=0.5, factors=(2, 4))


@pytest.mark.parametrize("tile_px", [512, 1024])
@pytest.mark.parametrize("mpp", [0.5, 1.0, 0.8, 2.0])
def test_one_scale_is_the_dense_reference(slide: Path, tmp_path: Path, mpp: float, tile_px: int) -> None:
    spec = one_scale(mpp)
    made = MadeRun(slide, write_bundle(tmp_path / "one.safetensors", spec))
    summary = run_serially(made, tmp_path, RunConfig(tile_px=tile_px, **ALL))  # type: ignore[arg-type]
    assert not summary.failures
    assert_dense(summary.folder, 0, slide, spec)


class Stopped(Exception):
    """Somebody pulled the plug."""


def stop_after_the_first_scale(event: Event) -> None:
    if isinstance(event, PassFinished):
        raise Stopped


def test_a_run_stopped_after_its_first_scale_shows_the_dense_reference(slide: Path, tmp_path: Path) -> None:
    spec = free_spec()
    made = MadeRun(slide, write_bundle(tmp_path / "three.safetensors", spec))
    with pytest.raises(Stopped):
        run_serially(made, tmp_path, RunConfig(tile_px=512, tissue=False), observe=stop_after_the_first_scale)
    assert_dense(tmp_path / slide.stem, 2, slide, spec, ("mask", "probabilities"))


# ---- three scales ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two by three cells at 0.5, of which the right ones are glass and nothing else."""
    image = stained(Size(1200, 700), seed=3)
    image[:, 450:] = GLASS_RGB
    image[600:, :] = GLASS_RGB
    return write_pyramid(tmp_path_factory.mktemp("slides") / "half.tif", image, mpp=0.5, factors=(2, 4))


@pytest.fixture(scope="module")
def refining(half_empty: Path, tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """A backbone that costs nothing and is sure of glass, and refiners that have their own mind."""
    spec = free_spec(
        network_args={"gain": 4.0}, refiner="magnet", refiner_of=(0, 1), median_px=3, select_above=(0.2, 0.3)
    )
    backbone, refiners = networks_of(spec)
    for refiner in refiners:
        assert isinstance(refiner, RefinementModule)
        with torch.inference_mode():
            fine, coarse = torch.randn(2, 1, 3, 64, 64).mul(2).softmax(dim=2)
            refiner.seg_conv.weight *= 4 / refiner.eval()(fine=fine, coarse=coarse).std()
    path = tmp_path_factory.mktemp("bundles") / "refining.safetensors"
    save_bundle(path, spec, backbone, refiners)
    return MadeRun(half_empty, path)


def run(made: MadeRun, folder: Path, tile_px: int, **config: Any) -> dict[str, Pixels]:
    found = run_serially(made, folder, RunConfig(tile_px=tile_px, **ALL, **config)).folder
    return {f"{name} {level}": labels_of(found, level, name) for name in PRODUCTS for level in range(3)}


def different(one: dict[str, Pixels], other: dict[str, Pixels]) -> list[str]:
    return [name for name in one if not np.array_equal(one[name], other[name])]


def test_neither_tiles_nor_leaving_out_what_is_certain_matter(
    refining: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, bool]] = []
    seen: list[int] = []
    certain, segment = Engine.certain, Engine.segment

    def noted(engine: Engine, coarse: Pixels, frame: Frame) -> bool:
        told.append((frame.scale.index, certain(engine, coarse, frame)))
        return told[-1][1]

    def counted(engine: Engine, inputs: Any, frame: Frame) -> Any:
        found: list[CellPixels] = list(segment(engine, inputs, frame))
        seen.append(frame.scale.index)
        return iter(found)

    monkeypatch.setattr(Engine, "certain", noted)
    monkeypatch.setattr(Engine, "segment", counted)
    reference = run(refining, tmp_path / "512", 512)
    assert sorted(told) == [(1, False), (1, True), *[(2, False)] * (n := told.count((2, False))), *[(2, True)] * (6 - n)]
    assert 0 < n < 6
    assert sorted(seen) == [0, 1, *[2] * n]
    for tile_px in (1024, 2048):
        assert not different(run(refining, tmp_path / str(tile_px), tile_px), reference)

    monkeypatch.setattr(Engine, "certain", lambda *_: False)
    seen.clear()
    assert not different(run(refining, tmp_path / "all", 1024), reference)
    assert sorted(seen) == [0, 1, 1, *[2] * 6]

    plain = run(refining, tmp_path / "none", 1024, refine=0.0)
    changed = (plain["mask 0"] != reference["mask 0"]).mean()
    assert changed > 0.02, "refining must make a difference"
