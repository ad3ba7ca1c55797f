"""A run against dense references, pixel for pixel; and one with refiners against itself, however it is cut."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.few import slow_except
from tests.nets.made import networks_of
from tests.runs import MadeRun, free_spec, labels_of, run_serially, write_bundle
from tests.slides_made import GLASS_RGB, stained, write_pyramid
from wsi_magnet.config import RunConfig
from wsi_magnet.geometry import Size
from wsi_magnet.inference.engine import Engine
from wsi_magnet.inference.image import segment_image
from wsi_magnet.inference.tiles import CellPixels
from wsi_magnet.magnet.selection import mixing_weight
from wsi_magnet.magnet.step import magnet_step
from wsi_magnet.magnet.uncertainty import query_score
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.gate import GateModule
from wsi_magnet.nets.refiner import RefinementModule
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.planning.plan import PatchGeometry
from wsi_magnet.results.events import Event, ScaleFinished
from wsi_magnet.scales import build_ladder
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.registry import open_slide

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

PRODUCTS = ("mask", "probabilities", "uncertainty")


def everything(tile_px: int, **config: Any) -> RunConfig:
    """All of the slide is analysed, exactly, and all of the result is kept."""
    kept = {"keep_probabilities": True, "keep_uncertainty": True}
    return RunConfig(**{"tile_px": tile_px, "tissue": False, "precision": "fp32", **kept, **config})


def one_scale(mpp: float, **changes: Any) -> BundleSpec:
    """No refiner at all."""
    return free_spec(mpps=(mpp,), refiner_of=(), select_above=(), refine_above=(), temperature=(1.0,), **changes)


class Dense(NamedTuple):
    """What a whole scale must be."""

    labels: Pixels
    probabilities: Floats
    brink: npt.NDArray[np.bool_]
    """Where a grey level more or less could make another label."""


def dense(slide: Path, spec: BundleSpec) -> Dense:
    """The coarsest scale in one piece: the strongest normalised colour; of equals, the first."""
    with closing(open_slide(slide)) as reader:
        (scale, *_) = build_ladder(spec.mpps, reader.info.require_mpp(), reader.info.canvas).scales
        picture = read_scale(reader, scale, scale.grid)
    logits = (picture / 255 - np.array(spec.mean)) / np.array(spec.std)
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    # Red and blue are normalised alike and can be equal; green is not, and cannot.
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    to_green = 255 * (spec.mean[0] - spec.mean[1])
    strongest = np.where(green + to_green > np.maximum(red, blue), 1, np.where(blue > red, 2, 0))
    second, first = np.moveaxis(np.sort(logits, axis=-1), -1, 0)[-2:]
    values = np.array([c.value for c in spec.classes], np.uint8)
    brink = first - second < 2.5 / 255 / spec.std[0]
    return Dense(values[strongest], np.moveaxis(odds / odds.sum(axis=-1, keepdims=True), -1, 0), brink)


def assert_mask(folder: Path, level: int, expected: Dense, *, resampled: bool = False) -> None:
    """Pixel for pixel; of resampled pixels, which are rounded to grey levels, but for those on the brink."""
    assert {1, 2, 3} <= set(np.unique(expected.labels).tolist())
    told = ~expected.brink if resampled else np.ones_like(expected.brink)
    assert told.mean() > 0.9
    assert np.array_equal(labels_of(folder, level)[told], expected.labels[told])


def assert_grey(folder: Path, level: int, expected: Dense) -> None:
    probabilities, uncertainty = (labels_of(folder, level, name).astype(float) for name in PRODUCTS[1:])
    assert np.abs(probabilities - 255 * expected.probabilities).max() <= 0.51
    second, first = np.sort(expected.probabilities, axis=0)[-2:]
    assert np.abs(uncertainty - 255 * (1 - (first - second))).max() <= 1.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For slides."""
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def slide(folder: Path) -> Path:
    """Three by two cells at 0.5, the last of them cut off."""
    return write_pyramid(folder / "whole.tif", stained(Size(1304, 908)), mpp=0.5, factors=(2, 4))


@pytest.fixture(scope="module")
def odd_slide(folder: Path) -> Path:
    """Its coarser scales reach half a pixel beyond it."""
    return write_pyramid(folder / "odd.tif", stained(Size(1301, 907), seed=1), mpp=0.5)


@pytest.mark.parametrize(
    ("name", "mpp", "tile_px"),
    slow_except(
        [("slide", 0.8, 512), ("odd_slide", 1.0, 512), ("odd_slide", 2.0, 512)],
        [
            ("slide", 0.5, 512),
            ("slide", 1.0, 512),
            ("slide", 0.8, 512),
            ("odd_slide", 0.5, 1024),
            ("odd_slide", 1.0, 512),
            ("odd_slide", 2.0, 512),
        ],
    ),
)
def test_one_scale_is_the_dense_reference(
    name: str, mpp: float, tile_px: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    slide: Path = request.getfixturevalue(name)
    spec = one_scale(mpp)
    made = MadeRun(slide, write_bundle(tmp_path / "one.safetensors", spec))
    summary = run_serially(made, tmp_path, everything(tile_px))
    assert not summary.failures
    expected = dense(slide, spec)
    assert_mask(summary.folder, 0, expected, resampled=mpp == 0.8)
    if mpp != 0.8:
        assert_grey(summary.folder, 0, expected)


class Stopped(Exception):
    """Somebody pulled the plug."""


def stop_after_the_first_scale(event: Event) -> None:
    if isinstance(event, ScaleFinished):
        raise Stopped


def test_a_run_stopped_after_its_first_scale_shows_the_dense_reference(slide: Path, tmp_path: Path) -> None:
    made = MadeRun(slide, write_bundle(tmp_path / "three.safetensors", free_spec()))
    with pytest.raises(Stopped):
        run_serially(made, tmp_path, everything(512), observe=stop_after_the_first_scale)
    result = tmp_path / slide.stem
    assert not labels_of(result).any(), "nothing of the finer scales is there yet"
    assert_mask(result, 2, dense(slide, free_spec()))
    assert_grey(result, 2, dense(slide, free_spec()))


# ---- three scales ------------------------------------------------------------------------------------------------


def seen(slide: Path, spec: BundleSpec) -> list[Tensor]:
    """What the network makes of each scale in one piece, float (1, C, H, W) probabilities, coarse to fine."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    shown = (torch.from_numpy(one).permute(2, 0, 1)[None] / 255 for one in pictures(slide, spec))
    return [((one - mean) / std).softmax(dim=1) for one in shown]


def pictures(slide: Path, spec: BundleSpec) -> list[Pixels]:
    """Each scale in one piece, coarse to fine."""
    with closing(open_slide(slide)) as reader:
        scales = build_ladder(spec.mpps, reader.info.require_mpp(), reader.info.canvas).scales
        return [read_scale(reader, scale, scale.grid) for scale in scales]


def stored(p: Tensor) -> Tensor:
    return (p * 255).round()


def enlarged(coarse: Tensor, like: Tensor) -> Tensor:
    """Of the whole slide: what a store has of the coarser scale, on the grid of this one."""
    p = coarse / coarse.sum(dim=1, keepdim=True)
    twice = F.interpolate(p, scale_factor=2, mode="bilinear", align_corners=False)
    return twice[..., : like.shape[-2], : like.shape[-1]]


def widest_gap(score: Tensor) -> float:
    """A threshold from which the scores are as far as can be, so that rounding does not decide."""
    values = score.unique()
    middle = values[len(values) // 3 : 2 * len(values) // 3]
    at = int(middle.diff().argmax())
    return float((middle[at] + middle[at + 1]) / 2)


def off(found: Path, expected: Tensor, spec: BundleSpec, edge_px: int) -> tuple[float, float]:
    """Share of wrong labels and of wrong bytes, without an edge; those that rounding can explain are not wrong."""
    inside = slice(edge_px, -edge_px or None)
    labels = torch.from_numpy(labels_of(found))
    first, second = expected[0].topk(2, dim=0).values
    wanted = torch.tensor([c.value for c in spec.classes])[expected[0].argmax(dim=0)]
    beside = (torch.from_numpy(labels_of(found, 0, "probabilities").astype(np.float32)) - stored(expected)[0]).abs()
    wrong = (labels != wanted) & (first - second > 2 / 255), beside.amax(dim=0) > 1  # a byte of the coarser scale
    a, b = (float(one[inside, inside].float().mean()) for one in wrong)
    return a, b


@pytest.mark.parametrize("name", ["slide", "odd_slide"])
def test_carried_over_it_is_the_coarsest_scale_enlarged(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    slide: Path = request.getfixturevalue(name)
    spec = free_spec()
    coarsest, *finer = seen(slide, spec)
    y = coarsest
    for fine in finer:
        y = enlarged(stored(y), fine)
    made = MadeRun(slide, write_bundle(tmp_path / "free.safetensors", spec))
    found = run_serially(made, tmp_path, everything(1024, refine=0.0)).folder
    assert off(found, y, spec, edge_px=0) == (0, 0)


def test_refined_it_is_the_published_step_on_the_whole_slide(slide: Path, tmp_path: Path) -> None:
    """But for the slide's edge, beyond which the median finds nought and a patch its mirror image."""
    spec, median_px = free_spec(), 3
    y, *finer = seen(slide, spec)
    grid_hw, thresholds = (int(y.shape[-2]), int(y.shape[-1])), []
    for fine in finer:
        y = enlarged(stored(y), fine)
        score = query_score(coarse=y, refined=fine, grid_hw=grid_hw, median_px=median_px)
        thresholds.append(widest_gap(score))
        y = magnet_step(coarse=y, refined=fine, selected=mixing_weight(score, thresholds[-1], 0))
    spec = free_spec(select_above=tuple(thresholds), median_px=median_px)
    made = MadeRun(slide, write_bundle(tmp_path / "free.safetensors", spec))
    found = run_serially(made, tmp_path, everything(512)).folder
    assert max(off(found, y, spec, edge_px=16)) < 1e-4


@pytest.mark.slow
def test_a_gate_that_sees_the_pixels_is_the_same_on_the_whole_slide_in_tiles_and_on_images(
    slide: Path, tmp_path: Path
) -> None:
    """But for the edges of the slide, and of an image's patches, which have no halo."""
    spec = free_spec(
        refiner="gate+rgb",
        mpps=(1.0, 0.5),
        refiner_of=(0,),
        select_above=(0.0,),
        refine_above=(0.0,),
        temperature=(1.0, 1.0),
    )
    backbone, (gate,) = networks_of(spec)
    assert isinstance(gate, GateModule)
    with torch.no_grad():
        gate.stem_conv.weight *= 300
        nn.init.normal_(gate.choose.weight, 0, 3)
        nn.init.normal_(gate.residual.weight, 0, 0.3)
    save_bundle(tmp_path / "gate.safetensors", spec, backbone, [gate])
    images = pictures(slide, spec)
    coarse, fine = seen(slide, spec)
    rgb = torch.from_numpy(images[1]).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        whole, blind = (
            gate.eval()(fine=fine, coarse=enlarged(stored(coarse), fine), rgb=shown).softmax(dim=1)
            for shown in (rgb, torch.full_like(rgb, 0.5))
        )
    assert (whole - blind).abs().mean() > 0.02, "the pixels matter"
    made = MadeRun(slide, tmp_path / "gate.safetensors")
    found = [run_serially(made, tmp_path / str(px), everything(px)).folder for px in (512, 1024)]
    assert max(off(found[0], whole, spec, edge_px=32)) == 0
    for product in PRODUCTS:
        assert np.array_equal(labels_of(found[0], 0, product), labels_of(found[1], 0, product))
    image = segment_image(images, load_bundle(made.bundle), points=1.0)[-1]
    (height, width), edge = images[0].shape[:2], gate.receptive_radius_px + 1
    own = np.s_[:, edge : height - edge, edge : width - edge]  # of the first of four patches
    assert np.abs(image[own] - whole[0].numpy()[own]).max() < 2 / 255


@pytest.fixture(scope="module")
def half_empty(folder: Path) -> Path:
    """Two rows of three cells at 0.5, of which the right ones are glass and nothing else."""
    image = stained(Size(1200, 700), seed=3)
    image[:, 450:] = GLASS_RGB
    image[600:, :] = GLASS_RGB
    return write_pyramid(folder / "half.tif", image, mpp=0.5, factors=(2, 4))


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


def run(made: MadeRun, out: Path, config: RunConfig) -> dict[str, Pixels]:
    found = run_serially(made, out, config).folder
    return {f"{name} {level}": labels_of(found, level, name) for name in PRODUCTS for level in range(3)}


def different(one: dict[str, Pixels], other: dict[str, Pixels]) -> list[str]:
    return [name for name in one if not np.array_equal(one[name], other[name])]


@pytest.mark.slow
@pytest.mark.parametrize("tile_px", [1024, 2048])
def test_neither_tiles_nor_leaving_out_what_is_certain_matter(
    refining: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile_px: int
) -> None:
    told: list[tuple[int, bool]] = []
    segmented: list[int] = []
    certain, segment = Engine.is_unaffected, Engine.segment

    def noted(engine: Engine, coarse: Pixels, geometry: PatchGeometry) -> bool:
        told.append((geometry.index, certain(engine, coarse, geometry)))
        return told[-1][1]

    def counted(engine: Engine, inputs: Any, geometry: PatchGeometry) -> Any:
        found: list[CellPixels] = list(segment(engine, inputs, geometry))
        segmented.append(geometry.index)
        return iter(found)

    monkeypatch.setattr(Engine, "is_unaffected", noted)
    monkeypatch.setattr(Engine, "segment", counted)
    reference = run(refining, tmp_path / "512", everything(512))
    refined = told.count((2, False))
    assert 0 < refined < 6
    assert sorted(told) == [(1, False), (1, True), *[(2, False)] * refined, *[(2, True)] * (6 - refined)]
    assert sorted(segmented) == [0, 1, *[2] * refined]
    assert not different(run(refining, tmp_path / str(tile_px), everything(tile_px)), reference)

    monkeypatch.setattr(Engine, "is_unaffected", lambda *_: False)
    segmented.clear()
    assert not different(run(refining, tmp_path / "all", everything(1024)), reference)
    assert sorted(segmented) == [0, 1, 1, *[2] * 6]

    plain = run(refining, tmp_path / "none", everything(1024, refine=0.0))
    assert (plain["mask 0"] != reference["mask 0"]).mean() > 0.02, "refining must make a difference"
