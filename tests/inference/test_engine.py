"""The engine against a twin that follows the paper step by step, on whole patches and with plain networks.

The twin cuts nothing before the end, folds nothing, counts nothing and leaves nothing out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.few import slow_except
from tests.nets.made import networks_of, small_spec
from wsi_magnet.config import CELL_SIDES_PX, Precision
from wsi_magnet.inference.engine import UNKNOWN, Engine, PatchInput
from wsi_magnet.inference.tiles import CellPixels
from wsi_magnet.labels import NOT_ANALYSED
from wsi_magnet.magnet.selection import mixing_weight
from wsi_magnet.magnet.step import magnet_step, refine_patch, uses_rgb
from wsi_magnet.magnet.uncertainty import confidence, query_score
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.nets.gate import GateModule, PoolModule
from wsi_magnet.nets.refiner import RefinementModule
from wsi_magnet.nets.small import SmallNet
from wsi_magnet.nets.spec import BundleSpec, ClassInfo
from wsi_magnet.planning.plan import CONTEXT_PX, PatchGeometry, halo_px

Pixels = npt.NDArray[np.uint8]

CELL_PX = 64
"""What holds for cells of this side, which no bundle has, holds for larger ones, and takes a fiftieth of the time."""

NOTHING, EVERYTHING = 1.5, -1.0
"""Thresholds."""

CPU = torch.device("cpu")


# ---- bundles, frames and patches ---------------------------------------------------------------------------------


def classes_of(*values: int) -> tuple[ClassInfo, ...]:
    return tuple(ClassInfo(f"class {value}", value, (value, 0, 0)) for value in values)


def spec_of(**changes: Any) -> BundleSpec:
    """Four scales, two refiners that take turns, and no two scales alike."""
    values: dict[str, Any] = {
        "classes": classes_of(6, 1, 200),
        "mpps": (8.0, 4.0, 2.0, 1.0),
        "refiner_of": (1, 0, 1),
        "select_above": (0.1, 0.2, 0.3),
        "refine_above": (0.4, 0.4, 0.4),
        "temperature": (1.0, 1.3, 0.8, 2.0),
    }
    return small_spec(**{**values, **changes})


def made_bundle(spec: BundleSpec) -> Bundle:
    """Seeded networks whose probabilities vary, and whose every weight matters."""
    backbone, refiners = networks_of(spec)
    for network in (backbone, *refiners):
        network.eval().requires_grad_(False)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.6, 1.2)
                nn.init.normal_(layer.bias, 0, 0.3)
                assert layer.running_mean is not None
                assert layer.running_var is not None
                nn.init.normal_(layer.running_mean, 0, 0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
    with torch.inference_mode():
        assert isinstance(backbone, SmallNet)
        logits = backbone(torch.randn(1, 3, 256, 256))
        backbone.classify.weight *= 2 / logits.std()
        assert backbone.classify.bias is not None
        backbone.classify.bias -= backbone(torch.randn(1, 3, 256, 256)).mean(dim=(0, 2, 3))
        for refiner in refiners:
            if isinstance(refiner, PoolModule):
                refiner.weights.copy_(torch.tensor([1.5, 0.2]))
            if isinstance(refiner, GateModule):
                nn.init.normal_(refiner.residual.weight, 0, 0.2)
                nn.init.normal_(refiner.choose.weight, 0, 2)
                if refiner.uses_rgb:
                    refiner.stem_conv.weight *= 100
            if isinstance(refiner, RefinementModule):
                fine, coarse = torch.randn(2, 1, len(spec.classes), 64, 64).mul(2).softmax(dim=2)
                refiner.seg_conv.weight *= 2 / refiner(fine=fine, coarse=coarse).std()
    return Bundle(spec, Path("made"), "", backbone, tuple(refiners))


def with_refiner(bundle: Bundle, refiner: nn.Module) -> Bundle:
    """The same with one refiner for all scales."""
    shared = (0,) * len(bundle.spec.refiner_of)
    return replace(bundle, spec=replace(bundle.spec, refiner_of=shared), refiners=(refiner,))


def selecting(bundle: Bundle, geometry: PatchGeometry, above: float, width: float = 0.0) -> Bundle:
    """The same with another threshold and width at a geometry's scale."""
    steps = range(len(bundle.spec.refiner_of))
    step = geometry.index - 1
    above_of = tuple(above if i == step else bundle.spec.select_above[i] for i in steps)
    width_of = tuple(width if i == step else 0.123 for i in steps)
    return replace(bundle, spec=replace(bundle.spec, select_above=above_of, select_width=width_of))


def with_median(bundle: Bundle, median_px: int) -> Bundle:
    return replace(bundle, spec=replace(bundle.spec, median_px=median_px))


def engine_of(bundle: Bundle, precision: Precision = "fp32", **config: Any) -> Engine:
    return Engine(bundle, CPU, precision=precision, **config)


def geometry_of(index: int, median_px: int, least_px: int = 32, cell_px: int = CELL_PX) -> PatchGeometry:
    """Geometry of a scale as a plan lays it out."""
    halo = halo_px(least_px if index else max(least_px, CONTEXT_PX), median_px, 2**index)
    return PatchGeometry(index, halo, 2**index, cell_px)


def picture(geometry: PatchGeometry, seed: int) -> Pixels:
    """Blobs of colour and noise."""
    generator = torch.Generator().manual_seed(seed)
    side = geometry.patch_px
    blobs = F.interpolate(torch.rand(1, 3, side // 16, side // 16, generator=generator), size=(side, side))
    mixed = 0.7 * blobs[0] + 0.3 * torch.rand(3, side, side, generator=generator)
    return np.ascontiguousarray((mixed * 255).byte().permute(1, 2, 0).numpy())


def stored_map(geometry: PatchGeometry, classes: int, seed: int, sharpness: float = 4.0) -> Pixels:
    """What a coarser scale might have stored under the whole patch: sure and unsure by turns."""
    generator = torch.Generator().manual_seed(seed)
    side = geometry.patch_px // 2 + 2
    blobs = torch.randn(1, classes, side // 6, side // 6, generator=generator)
    smooth = F.interpolate(blobs, size=(side, side), mode="bilinear", align_corners=False)[0]
    logits = sharpness * smooth + 0.3 * torch.randn(classes, side, side, generator=generator)
    return (logits.softmax(dim=0) * 255).round().byte().numpy()


def patch_of(geometry: PatchGeometry, classes: int, seed: int = 0, sharpness: float = 4.0) -> PatchInput:
    """A patch with the coarser maps under all of it."""
    coarse = stored_map(geometry, classes, seed, sharpness) if geometry.index else None
    return PatchInput(picture(geometry, seed), coarse)


def part_for(engine: Engine, geometry: PatchGeometry, whole: Pixels) -> Pixels:
    """Of maps under the whole patch, those that the engine asks for."""
    beside = geometry.halo_px - engine.margin_px(geometry)
    assert beside >= 0
    assert beside % 2 == 0
    cut = slice(beside // 2, whole.shape[-1] - beside // 2)
    return whole[:, cut, cut]


def given_to(engine: Engine, geometry: PatchGeometry, patch: PatchInput) -> PatchInput:
    return patch if patch.coarse is None else PatchInput(patch.image, part_for(engine, geometry, patch.coarse))


def segmented(engine: Engine, geometry: PatchGeometry, patch: PatchInput) -> CellPixels:
    (found,) = engine.segment([given_to(engine, geometry, patch)], geometry)
    return found


def carried(engine: Engine, geometry: PatchGeometry, coarse: Pixels) -> CellPixels:
    return engine.upsample_only(part_for(engine, geometry, coarse), geometry)


def equal(one: CellPixels, other: CellPixels) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("labels", "uncertainty", "probabilities")
    )


# ---- the twin ----------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What the twin has before it selects, float (1, C or 1, P, P)."""

    coarse: Tensor
    refined: Tensor
    score: Tensor


def coarse_of(bundle: Bundle, stored: Pixels) -> Tensor:
    """Y of the whole patch."""
    counts = torch.from_numpy(stored.astype(np.float32))[None]
    total = counts.sum(dim=1, keepdim=True)
    n = len(bundle.spec.classes)
    background = [i for i, c in enumerate(bundle.spec.classes) if c.value == 0]
    prior = torch.tensor([float(i in background) if background else 1 / n for i in range(n)]).view(1, n, 1, 1)
    y = torch.where(total > 0, counts / total, prior)
    return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]


def fine_of(bundle: Bundle, image: Pixels, geometry: PatchGeometry) -> Tensor:
    """O of the whole patch."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (bundle.spec.mean, bundle.spec.std))
    x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - mean) / std
    logits: Tensor = bundle.backbone(x)
    return (logits / bundle.spec.temperature[geometry.index]).softmax(dim=1)


@torch.inference_mode()
def seen_by_twin(bundle: Bundle, geometry: PatchGeometry, patch: PatchInput) -> Seen:
    assert patch.coarse is not None
    coarse = coarse_of(bundle, patch.coarse)
    refiner: Any = bundle.refiners[bundle.spec.refiner_of[geometry.index - 1]]
    rgb = torch.from_numpy(patch.image).permute(2, 0, 1)[None] / 255 if uses_rgb(refiner) else None
    refined = refine_patch(fine=fine_of(bundle, patch.image, geometry), coarse=coarse, refiner=refiner, rgb=rgb)
    grid = geometry.patch_px // geometry.ratio
    score = query_score(coarse=coarse, refined=refined, grid_hw=(grid, grid), median_px=bundle.spec.median_px)
    return Seen(coarse, refined, score)


def weight_of(bundle: Bundle, geometry: PatchGeometry, score: Tensor) -> Tensor:
    step = geometry.index - 1
    return mixing_weight(score, bundle.spec.select_above[step], bundle.spec.width_of(step))


def cell_of(maps: Tensor, geometry: PatchGeometry) -> Tensor:
    """(1, C, P, P) to the cell's (C, cell, cell)."""
    inside = slice(geometry.halo_px, geometry.patch_px - geometry.halo_px)
    return maps[0, :, inside, inside]


def by_twin(bundle: Bundle, geometry: PatchGeometry, patch: PatchInput) -> Tensor:
    """Probabilities of the cell, float (C, cell, cell)."""
    if patch.coarse is None:
        with torch.inference_mode():
            return cell_of(fine_of(bundle, patch.image, geometry), geometry)
    return merged(bundle, geometry, seen_by_twin(bundle, geometry, patch))


def merged(bundle: Bundle, geometry: PatchGeometry, seen: Seen) -> Tensor:
    weight = weight_of(bundle, geometry, seen.score)
    return cell_of(magnet_step(coarse=seen.coarse, refined=seen.refined, selected=weight), geometry)


def between(score: Tensor, geometry: PatchGeometry) -> float:
    """A threshold that selects a part of the cell, as far as can be from any score: rounding must not decide."""
    values = cell_of(score, geometry).unique()
    middle = values[len(values) // 4 : 3 * len(values) // 4]
    widest = int(middle.diff().argmax())
    return float((middle[widest] + middle[widest + 1]) / 2)


def assert_is(found: CellPixels, expected: Tensor, values: tuple[int, ...]) -> None:
    """What the twin says, to the last byte but for rounding."""
    stored = torch.from_numpy(found.probabilities.astype(np.float32))
    assert stored.shape == expected.shape
    assert (stored - 255 * expected).abs().max() <= 0.55
    first, second = expected.topk(2, dim=0).values
    labels = torch.tensor(values)[expected.argmax(dim=0)]
    assert (torch.from_numpy(found.labels) == labels)[first - second > 1e-4].all()
    uncertainty = 255 * (1 - (first - second))
    assert (torch.from_numpy(found.uncertainty.astype(np.float32)) - uncertainty).abs().max() <= 1.1
    ordered = np.sort(found.probabilities, axis=0)
    assert np.array_equal(found.uncertainty, 255 - (ordered[-1] - ordered[-2]))


def values_of(bundle: Bundle) -> tuple[int, ...]:
    return tuple(c.value for c in bundle.spec.classes)


def assert_part(bundle: Bundle, geometry: PatchGeometry, seen: Seen) -> None:
    """Some of the cell is selected, some is not, and it makes a difference: a comparison is worth something."""
    weight = cell_of(weight_of(bundle, geometry, seen.score).float(), geometry)
    assert 0.05 < (weight > 0).float().mean() < 0.95
    changed = (cell_of(seen.refined, geometry) - cell_of(seen.coarse, geometry)).abs().amax(dim=0)
    assert changed[weight[0] > 0].mean() > 0.05


# ---- against the twin --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """`small` with two of `magnet`."""
    return made_bundle(spec_of())


def check(bundle: Bundle, geometry: PatchGeometry, patch: PatchInput, width: float = 0.0) -> CellPixels:
    """The engine is the twin where a part is selected."""
    seen = seen_by_twin(bundle, geometry, patch)
    bundle = selecting(bundle, geometry, between(seen.score, geometry), width)
    assert_part(bundle, geometry, seen)
    found = segmented(engine_of(bundle), geometry, patch)
    assert_is(found, merged(bundle, geometry, seen), values_of(bundle))
    return found


@pytest.mark.parametrize(
    ("index", "median_px", "width"),
    slow_except([(1, 1, 0.3), (1, 11, 0.0), (2, 5, 0.0), (3, 3, 0.3)], product((1, 2, 3), (1, 3, 5, 11), (0.0, 0.3))),
)
def test_a_step_is_the_published_one(bundle: Bundle, index: int, median_px: int, width: float) -> None:
    geometry, bundle = geometry_of(index, median_px), with_median(bundle, median_px)
    check(bundle, geometry, patch_of(geometry, 3, seed=index + median_px), width)


def test_the_coarsest_scale_is_the_backbones(bundle: Bundle) -> None:
    geometry = geometry_of(0, 5)
    patch, engine = patch_of(geometry, 3), engine_of(bundle)
    assert engine.margin_px(geometry) == 0
    expected = by_twin(bundle, geometry, patch)
    assert (expected.mean(dim=(1, 2)) > 0.05).all(), "every class must occur"
    assert_is(segmented(engine, geometry, patch), expected, values_of(bundle))


@pytest.mark.parametrize("above", [EVERYTHING, 0.0, NOTHING])
@pytest.mark.parametrize("index", [1, 3])
def test_everything_and_nothing_selected(bundle: Bundle, index: int, above: float) -> None:
    geometry = geometry_of(index, 5)
    bundle = selecting(bundle, geometry, above)
    patch = patch_of(geometry, 3)
    assert_is(segmented(engine_of(bundle), geometry, patch), by_twin(bundle, geometry, patch), values_of(bundle))


@pytest.mark.parametrize("values", [(1, 2), (9, 0, 254, 3, 77), (7, 6, 5, 4, 3, 2, 1)])
def test_any_classes(values: tuple[int, ...]) -> None:
    bundle, geometry = made_bundle(spec_of(classes=classes_of(*values))), geometry_of(2, 5)
    check(bundle, geometry, patch_of(geometry, len(values)))


def test_refiners_that_take_the_coarse_map_first() -> None:
    bundle, geometry = made_bundle(spec_of(channel_order="coarse_first")), geometry_of(2, 5)
    refiners = [RefinementModule(3, "coarse_first").eval() for _ in bundle.refiners]
    for refiner, other in zip(refiners, bundle.refiners, strict=True):
        refiner.load_state_dict(other.state_dict())
    bundle = replace(bundle, refiners=tuple(refiners))
    check(bundle, geometry, patch_of(geometry, 3))


@pytest.mark.parametrize(("index", "median_px", "least_px"), [(3, 9, 0), (2, 11, 0), (2, 1, 0), (1, 5, 60)])
def test_narrow_and_wide_halos(bundle: Bundle, index: int, median_px: int, least_px: int) -> None:
    geometry, bundle = geometry_of(index, median_px, least_px), with_median(bundle, median_px)
    assert engine_of(bundle).margin_px(geometry) <= geometry.halo_px
    check(bundle, geometry, patch_of(geometry, 3))


class Displaced(nn.Module):
    """Looks as far as it says and nowhere else: the fine map from one corner, the coarse one from the other."""

    def __init__(self, px: int) -> None:
        super().__init__()
        self.px = px

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """See `Refiner`."""
        before = F.pad(fine, (self.px, 0, self.px, 0))[..., : fine.shape[-2], : fine.shape[-1]]
        after = F.pad(coarse, (0, self.px, 0, self.px))[..., self.px :, self.px :]
        return 3 * before + 5 * after


class Honest(Displaced):
    """Says how far."""

    @property
    def receptive_radius_px(self) -> int:
        """How far it looks."""
        return self.px


@pytest.mark.parametrize("kind", [Honest, Displaced])
@pytest.mark.parametrize(
    ("px", "index", "median_px"),
    slow_except(
        [(1, 1, 3), (4, 3, 9), (7, 2, 5), (31, 1, 1)],
        [(px, *rest) for px in (1, 4, 7, 31) for rest in ((1, 1), (1, 3), (2, 5), (3, 7), (3, 9))],
    ),
)
def test_whatever_a_refiner_looks_at_is_there(
    bundle: Bundle, kind: type[Displaced], px: int, index: int, median_px: int
) -> None:
    bundle = with_median(with_refiner(bundle, kind(px)), median_px)
    geometry = geometry_of(index, median_px)
    margin_px = engine_of(bundle).margin_px(geometry)
    assert margin_px % 2 == 0
    assert margin_px <= geometry.halo_px
    if kind is Displaced:
        assert margin_px == geometry.halo_px, "nothing may be left out where nothing is promised"
    check(bundle, geometry, patch_of(geometry, 3))


def test_less_is_computed_where_less_is_needed(bundle: Bundle) -> None:
    margins = [
        engine_of(with_median(bundle, m)).margin_px(geometry_of(i, m)) for i, m in ((1, 1), (1, 3), (2, 5), (3, 5))
    ]
    assert margins == [4, 6, 12, 20]


@pytest.mark.parametrize(
    ("refiner", "index"), [("pool", 1), ("gate", 1), ("gate+rgb", 1), ("gate+rgb", 2), ("gate+rgb", 3)]
)
def test_a_weighing_module_is_given_what_it_sees(refiner: str, index: int) -> None:
    bundle, geometry = made_bundle(spec_of(refiner=refiner)), geometry_of(index, 3)
    engine = engine_of(bundle)
    assert engine.needs.rgb == (refiner == "gate+rgb")
    patch = patch_of(geometry, 3)
    check(bundle, geometry, patch)
    if engine.needs.rgb:
        here, other = (refined_on(bundle, geometry, patch, one) for one in (patch.image, patch.image[::-1].copy()))
        assert (here - other).abs().max() > 0.1, "the pixels matter"


def refined_on(bundle: Bundle, geometry: PatchGeometry, patch: PatchInput, image: Pixels) -> Tensor:
    """R of the twin with the O of a patch and the pixels of another."""
    assert patch.coarse is not None
    refiner: Any = bundle.refiners[bundle.spec.refiner_of[geometry.index - 1]]
    rgb = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        fine = fine_of(bundle, patch.image, geometry)
        return refine_patch(fine=fine, coarse=coarse_of(bundle, patch.coarse), refiner=refiner, rgb=rgb)


@pytest.mark.parametrize("cell_px", slow_except([128, 512], CELL_SIDES_PX))
def test_cells_of_their_real_sides(bundle: Bundle, cell_px: int) -> None:
    geometry = geometry_of(2, 5, cell_px=cell_px)
    assert check(bundle, geometry, patch_of(geometry, 3)).labels.shape == (cell_px, cell_px)


@pytest.mark.parametrize("index", [0, 2])
def test_bfloat16_is_nearly_the_same(bundle: Bundle, index: int) -> None:
    geometry = geometry_of(index, 5)
    bundle = selecting(bundle, geometry, EVERYTHING) if index else bundle
    patch = patch_of(geometry, 3)
    found = segmented(engine_of(bundle, "bf16"), geometry, patch)
    beside = torch.from_numpy(found.probabilities / np.float32(255)) - by_twin(bundle, geometry, patch)
    assert beside.abs().mean() < 0.02
    assert beside.abs().max() < 0.2


# ---- what was never stored, and what is not known ----------------------------------------------------------------


def with_holes(stored: Pixels, seed: int = 0) -> Pixels:
    """Cells in it were never stored."""
    rng, holes = np.random.default_rng(seed), stored.copy()
    for y, x in rng.integers(0, stored.shape[-1] - 12, (12, 2)):
        holes[:, y : y + 12, x : x + 12] = 0
    return holes


@pytest.mark.parametrize("values", [(6, 1, 200), (6, 0, 200)])
def test_what_was_never_stored_takes_the_prior(values: tuple[int, ...]) -> None:
    bundle, geometry = made_bundle(spec_of(classes=classes_of(*values))), geometry_of(2, 5)
    patch = patch_of(geometry, 3)
    assert patch.coarse is not None
    patch = PatchInput(patch.image, with_holes(patch.coarse))
    assert patch.coarse is not None
    check(bundle, geometry, patch)
    nothing = selecting(bundle, geometry, NOTHING)
    expected = by_twin(nothing, geometry, patch)
    found = carried(engine_of(nothing), geometry, patch.coarse)
    if 0 in values:
        assert_is(found, expected, values)
        return
    inside = covered(geometry, patch.coarse)
    assert 0.1 < inside.mean() < 0.9
    assert not found.labels[~inside].any()
    assert not found.probabilities[:, ~inside].any()
    assert not found.uncertainty[~inside].any()
    assert (found.labels[inside] == engine_labels(nothing, geometry, patch)[inside]).mean() > 0.999


def covered(geometry: PatchGeometry, coarse: Pixels) -> npt.NDArray[np.bool_]:
    """Pixels of the cell whose share of stored pixels is at least a half, bilinearly."""
    stored = torch.from_numpy((coarse > 0).any(axis=0).astype(np.float32))[None, None]
    doubled = F.interpolate(stored, scale_factor=2, mode="bilinear", align_corners=False)[0, 0].numpy()
    edge = geometry.halo_px + 2
    return np.asarray(doubled[edge:-edge, edge:-edge] >= 0.5)


def engine_labels(bundle: Bundle, geometry: PatchGeometry, patch: PatchInput) -> Pixels:
    """Labels of a cell in which nothing is selected."""
    return segmented(engine_of(bundle), geometry, patch).labels


@pytest.mark.parametrize(
    ("values", "label", "stored", "uncertainty"),
    [((6, 1, 200), 0, [0, 0, 0], 0), ((6, 0, 200), 0, [0, 255, 0], 0)],
)
def test_nothing_stored_at_all_is_background(
    values: tuple[int, ...], label: int, stored: list[int], uncertainty: int
) -> None:
    bundle, geometry = made_bundle(spec_of(classes=classes_of(*values))), geometry_of(2, 5)
    engine = engine_of(bundle)
    found = carried(engine, geometry, np.zeros((3, geometry.patch_px // 2 + 2, geometry.patch_px // 2 + 2), np.uint8))
    assert found.labels.shape == (CELL_PX, CELL_PX)
    assert (found.labels == label).all()
    assert (found.uncertainty == uncertainty).all()
    assert (found.probabilities == np.array(stored).reshape(3, 1, 1)).all()


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_carried_cell_is_what_the_twin_makes_of_it_without_selecting(bundle: Bundle, index: int) -> None:
    geometry = geometry_of(index, 5)
    bundle = selecting(bundle, geometry, NOTHING)
    patch = patch_of(geometry, 3)
    assert patch.coarse is not None
    engine = engine_of(bundle)
    found = carried(engine, geometry, patch.coarse)
    assert_is(found, by_twin(bundle, geometry, patch), values_of(bundle))
    assert equal(found, segmented(engine, geometry, patch))


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_cell_that_was_not_analysed_stays_so(bundle: Bundle, index: int) -> None:
    geometry, engine = geometry_of(index, 5), engine_of(bundle)
    coarse, edge = stored_map(geometry, 3, 0), geometry.halo_px // 2 + 1
    cell = slice(edge, edge + CELL_PX // 2)
    coarse[:, cell, cell] = UNKNOWN
    found = carried(engine, geometry, coarse)
    assert found.labels.shape == (CELL_PX, CELL_PX)
    assert (found.labels == NOT_ANALYSED).all()
    assert (found.uncertainty == 255).all()
    assert (found.probabilities == UNKNOWN).all()


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_cell_of_which_a_pixel_is_known_was_analysed(bundle: Bundle, place: str) -> None:
    geometry, engine = geometry_of(2, 5), engine_of(bundle)
    side = geometry.patch_px // 2 + 2
    coarse = np.full((3, side, side), UNKNOWN, np.uint8)
    at = geometry.halo_px // 2 + 1 + (0 if place == "first" else CELL_PX // 2 - 1)
    coarse[:, at, at] = (0, 255, 0)
    assert not (carried(engine, geometry, coarse).labels == NOT_ANALYSED).any()


def test_what_is_not_known_is_refined_as_even_odds(bundle: Bundle) -> None:
    geometry = geometry_of(2, 5)
    patch = patch_of(geometry, 3)
    assert patch.coarse is not None
    patch.coarse[:, 10:40, 15:50] = UNKNOWN
    check(bundle, geometry, patch)


# ---- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "precision"),
    slow_except([(0, "fp32"), (1, "fp32"), (0, "bf16")], product((0, 1, 3), ("fp32", "bf16"))),
)
def test_a_batch_gives_the_bits_of_single_patches(bundle: Bundle, index: int, precision: Precision) -> None:
    geometry = geometry_of(index, 3)
    patches = [patch_of(geometry, 3, seed) for seed in range(3)]
    if index:
        patches[1] = PatchInput(patches[1].image, with_holes(patches[1].coarse))  # type: ignore[arg-type]
        above = between(seen_by_twin(with_median(bundle, 3), geometry, patches[0]).score, geometry)
        bundle = selecting(with_median(bundle, 3), geometry, above)
    engine = engine_of(bundle, precision, batch_size=3)
    together = list(engine.segment([given_to(engine, geometry, patch) for patch in patches], geometry))
    pair = list(engine.segment([given_to(engine, geometry, patch) for patch in patches[1:]], geometry))
    alone = [segmented(engine, geometry, patch) for patch in patches]
    assert len(together) == 3
    assert len(pair) == 2
    assert all(map(equal, together, alone))
    assert all(map(equal, pair, alone[1:]))
    assert not equal(alone[0], alone[2])
    for found, patch in zip(together, patches, strict=True) if precision == "fp32" else ():
        assert_is(found, by_twin(bundle, geometry, patch), values_of(bundle))


def test_inputs_are_left_as_they_are(bundle: Bundle) -> None:
    geometry = geometry_of(2, 5)
    for size in (1, 2):
        engine = engine_of(bundle, batch_size=size)
        patch = given_to(engine, geometry, patch_of(geometry, 3))
        assert patch.coarse is not None
        image, coarse = patch.image.copy(), patch.coarse.copy()
        list(engine.segment([patch], geometry))
        engine.upsample_only(patch.coarse, geometry)
        engine.is_unaffected(patch.coarse, geometry)
        assert np.array_equal(patch.image, image)
        assert np.array_equal(patch.coarse, coarse)


# ---- cells that cannot change ------------------------------------------------------------------------------------


class Sure(nn.Module):
    """Is sure of everything, and of another class than the coarse map: whatever may be selected is, and changes."""

    receptive_radius_px = 0

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """See `Refiner`."""
        least = coarse.argmin(dim=1)
        return 1e4 * F.one_hot(least, coarse.shape[1]).movedim(-1, 1).float()


def selected_by_twin(bundle: Bundle, geometry: PatchGeometry, patch: PatchInput) -> bool:
    seen = seen_by_twin(bundle, geometry, patch)
    assert (confidence(seen.refined) == 1).all()
    return bool(cell_of(weight_of(bundle, geometry, seen.score).float(), geometry).any())


def is_certain(engine: Engine, geometry: PatchGeometry, coarse: Pixels) -> bool:
    return engine.is_unaffected(part_for(engine, geometry, coarse), geometry)


ABOVE = 0.5


def ways_to_be_unsure(geometry: PatchGeometry, median_px: int) -> Iterator[tuple[str, Pixels]]:
    """Maps that are sure of the second class but for a part, by what that part is."""
    side = geometry.patch_px // 2 + 2
    first, past = geometry.halo_px // 2 + 1, geometry.halo_px // 2 + 1 + CELL_PX // 2
    reach = max(1, median_px // 2 * geometry.ratio // 2)

    def unsure(*boxes: tuple[int, int, int, int], inverse: bool = False) -> Pixels:
        where = np.zeros((side, side), bool)
        for y0, y1, x0, x1 in boxes:
            where[y0:y1, x0:x1] = True
        sure = np.array([0, 255, 0], np.uint8).reshape(3, 1, 1)
        return np.where(where ^ inverse, np.array([85, 85, 85], np.uint8).reshape(3, 1, 1), sure)

    yield "nowhere", unsure()
    yield "everywhere", unsure(inverse=True)
    yield "round the cell", unsure((first, past, first, past), inverse=True)
    yield "beyond the reach", unsure((first - reach - 2, past + reach + 2) * 2, inverse=True)
    yield "left of the cell", unsure((0, side, 0, first))
    yield "above and below the cell", unsure((0, first, 0, side), (past, side, 0, side))
    for name, y, x in (("first", first, first), ("last", past, past), ("top right", first, past)):
        yield f"round the {name} corner", unsure((y - 99 if y > 99 else 0, y, 0, side), (0, side, x, side))
    yield "in the middle of the cell", unsure((first + 9, past - 9, first + 9, past - 9))
    yield "in a spot of the cell", unsure((first + 12, first + 13, first + 12, first + 13))
    yield "in the cell's first pixels", unsure((first, first + geometry.ratio, first, first + geometry.ratio))
    yield "in the cell's last pixels", unsure((past - geometry.ratio, past, past - geometry.ratio, past))


@pytest.mark.parametrize(
    ("index", "median_px"), slow_except([(1, 1), (1, 11), (2, 5), (3, 3)], product((1, 2, 3), (1, 3, 5, 11)))
)
def test_certain_is_what_nothing_could_change(bundle: Bundle, index: int, median_px: int) -> None:
    geometry = geometry_of(index, median_px)
    bundle = selecting(with_median(with_refiner(bundle, Sure()), median_px), geometry, ABOVE)
    engine, image = engine_of(bundle), picture(geometry, 0)
    told: dict[str, bool] = {}
    for name, coarse in ways_to_be_unsure(geometry, median_px):
        patch = PatchInput(image, coarse)
        told[name] = is_certain(engine, geometry, coarse)
        assert told[name] != selected_by_twin(bundle, geometry, patch), name
        unchanged = equal(segmented(engine, geometry, patch), carried(engine, geometry, coarse))
        assert unchanged == told[name], name
    assert told["nowhere"]
    assert told["beyond the reach"]
    assert told["left of the cell"]
    assert not told["everywhere"]
    # At a corner a window has more pixels outside the cell than in it.
    assert told["round the cell"] == (median_px == 1)
    if median_px * geometry.ratio < 20:
        assert not told["in the middle of the cell"]


@pytest.mark.parametrize(("index", "width"), slow_except([(1, 0.2)], product((1, 2, 3), (0.0, 0.2))))
def test_a_certain_cell_is_what_refining_makes_of_it(bundle: Bundle, index: int, width: float) -> None:
    geometry, found = geometry_of(index, 3), []
    for sharpness in (2.0, 12.0, 40.0):
        for seed in range(2):
            patch = patch_of(geometry, 3, seed, sharpness)
            assert patch.coarse is not None
            bound = query_score(
                coarse=coarse_of(bundle, patch.coarse),
                refined=torch.eye(3)[:1].view(1, 3, 1, 1).expand(1, 3, geometry.patch_px, geometry.patch_px),
                grid_hw=(geometry.patch_px // geometry.ratio,) * 2,
                median_px=3,
            )
            most = float(cell_of(bound, geometry).max())
            for above in (0.3, 0.9, most - 0.002, most + 0.002):
                one = selecting(with_median(bundle, 3), geometry, above, width)
                engine = engine_of(one)
                certain = is_certain(engine, geometry, patch.coarse)
                assert certain == (above > most)
                if certain:
                    assert equal(segmented(engine, geometry, patch), carried(engine, geometry, patch.coarse))
                found.append(certain)
    assert 5 < sum(found) < len(found) - 5, "both must happen"


@pytest.mark.parametrize("above", [EVERYTHING, 0.0, 5e-5])
def test_nothing_is_certain_where_everything_is_selected(bundle: Bundle, above: float) -> None:
    geometry = geometry_of(2, 5)
    side = geometry.patch_px // 2 + 2
    coarse = np.zeros((3, side, side), np.uint8)
    coarse[1] = 255
    engine = engine_of(selecting(bundle, geometry, above))
    assert not is_certain(engine, geometry, coarse)


@pytest.mark.parametrize(("values", "expected"), [((6, 1, 200), False), ((6, 0, 200), True)])
def test_what_was_never_stored_is_as_certain_as_the_prior(values: tuple[int, ...], expected: bool) -> None:
    geometry = geometry_of(2, 5)
    bundle = selecting(made_bundle(spec_of(classes=classes_of(*values))), geometry, ABOVE)
    side = geometry.patch_px // 2 + 2
    assert is_certain(engine_of(bundle), geometry, np.zeros((3, side, side), np.uint8)) == expected


def test_a_score_on_the_threshold_is_not_certain(bundle: Bundle) -> None:
    """Uncertainty is 0.4 everywhere, as bytes have it, and so is the threshold."""
    geometry = geometry_of(2, 5)
    side = geometry.patch_px // 2 + 2
    coarse = np.zeros((3, side, side), np.uint8)
    coarse[0], coarse[1] = 204, 51
    for above, expected in ((0.4, False), (0.40005, False), (0.4002, True), (0.3999, False)):
        engine = engine_of(selecting(bundle, geometry, above))
        assert is_certain(engine, geometry, coarse) == expected, above


# ---- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(6, 1, 200), (200, 254, 0), (1, 2, 3)])
def test_of_equally_likely_classes_the_first_is_taken(values: tuple[int, ...]) -> None:
    geometry = geometry_of(2, 5)
    engine = engine_of(made_bundle(spec_of(classes=classes_of(*values))))
    side = geometry.patch_px // 2 + 2
    ways = (
        (85, 85, 85, 0),
        (10, 90, 90, 1),
        (90, 10, 90, 0),
        (90, 90, 10, 0),
        (1, 2, 3, 2),
        (3, 2, 1, 0),
        (1, 3, 2, 1),
    )
    for *stored, channel in ways:
        coarse = np.broadcast_to(np.array(stored, np.uint8).reshape(3, 1, 1), (3, side, side)).copy()
        assert (carried(engine, geometry, coarse).labels == values[channel]).all(), stored


# ---- on a GPU ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize(("precision", "most"), [("fp32", 3), ("fp16", 12)])
@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_gpu_comes_near_the_twin(bundle: Bundle, index: int, precision: str, most: int) -> None:
    """Softly selected, so that nothing is on the brink."""
    geometry = geometry_of(index, 3)
    patch = patch_of(geometry, 3)
    if index:
        bundle = selecting(with_median(bundle, 3), geometry, 0.1, 0.5)
    engine = Engine(bundle, torch.device("cuda"), batch_size=2, precision=precision)  # type: ignore[arg-type]
    found = segmented(engine, geometry, patch)
    beside = torch.from_numpy(found.probabilities.astype(np.float32)) - 255 * by_twin(bundle, geometry, patch)
    assert beside.abs().max() <= most
