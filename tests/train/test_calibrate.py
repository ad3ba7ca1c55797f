"""Fitted values: a known temperature is found again, and thresholds let in what helps and keep out what harms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.train.made import setting_of
from wsi_magnet.magnet.uncertainty import uncertainty
from wsi_magnet.metrics.confusion import mean_iou
from wsi_magnet.nets.identity import IdentityRefiner
from wsi_magnet.nets.refiner import RefinementModule
from wsi_magnet.train.calibrate import (
    MIOU_LOST,
    THRESHOLDS,
    Fitter,
    _block_px,
    fit_temperature,
    fit_temperatures,
    least_uncertainty,
)
from wsi_magnet.train.frozen_backbone import FrozenBackbone, double
from wsi_magnet.train.views import View, Windows

CLASSES = 3
FULL = (1 << CLASSES) - 1
WINDOWS = Windows(128, 0, (2.0, 1.0))


def drawn_from(logits: Tensor, seed: int) -> Tensor:
    """Sets of the classes that are drawn with these logits' probabilities, int32 (1, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    p = logits[0].softmax(dim=0).flatten(1).T
    return (1 << torch.multinomial(p, 1, generator=generator)).int().view(1, *logits.shape[-2:])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    honest = [2 * torch.randn(1, CLASSES, 60, 60, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    sets = [drawn_from(one, i) for i, one in enumerate(honest)]
    found = fit_temperature([one * temperature for one in honest], sets)
    assert found == pytest.approx(temperature, rel=0.06)


def test_pixels_count_alike_however_many_of_a_view_are_labelled() -> None:
    honest = 2 * torch.randn(1, CLASSES, 80, 80, generator=torch.Generator().manual_seed(0))
    truth = drawn_from(honest, 0)
    misled = torch.full_like(truth, FULL)
    misled[0, 0, 0] = 1 << int(honest[0, :, 0, 0].argmin())
    assert fit_temperature([honest, honest], [truth, misled]) == pytest.approx(1, rel=0.06)


def test_a_temperature_stays_in_its_range() -> None:
    sure = torch.zeros(1, CLASSES, 4, 4)
    sure[:, 0] = 1
    right, wrong = torch.full((1, 4, 4), 1, dtype=torch.int32), torch.full((1, 4, 4), 2, dtype=torch.int32)
    assert fit_temperature([sure], [right]) == pytest.approx(0.25, rel=0.02)
    assert fit_temperature([sure], [wrong]) == pytest.approx(8, rel=0.02)


@dataclass(frozen=True, eq=False)
class Said:
    """In place of a frozen backbone: logits that are given, (1, C, w, w), by view and scale."""

    given: Sequence[tuple[Tensor, ...]]
    views: Sequence[View]
    frozen: FrozenBackbone

    def as_frozen(self) -> FrozenBackbone:
        """A `FrozenBackbone` that says this."""
        found: FrozenBackbone = _Given(
            **{name: getattr(self.frozen, name) for name in self.frozen.__dataclass_fields__}
        )
        object.__setattr__(found, "said", {id(view): one for view, one in zip(self.views, self.given, strict=True)})
        return found


class _Given(FrozenBackbone):
    said: dict[int, tuple[Tensor, ...]]

    def logits(self, view: View, scale: int) -> Tensor:
        return self.said[id(view)][scale]


def fitter(folder: Path, *, fine_right: bool, select: str = "hard", views: int = 2) -> Fitter:
    """Of views on which the coarse scale says one thing and the fine scale another, one of them right.

    Where it is wrong the coarse scale is unsure; where the fine one is wrong it is as sure as where it is right.
    """
    rng = np.random.default_rng(0)
    given, made = [], []
    for _ in range(views):
        truth = np.repeat(np.repeat(rng.integers(0, 2, (16, 16)), 8, axis=0), 8, axis=1)
        coarse_truth = truth[::2, ::2]
        muddled = np.repeat(np.repeat(rng.random((16, 16)) < 0.3, 4, axis=0), 4, axis=1)
        coarse = logits_of(np.where(muddled & fine_right, 1 - coarse_truth, coarse_truth), np.where(muddled, 1.0, 6.0))
        fine = logits_of(truth if fine_right else 1 - truth, np.full(truth.shape, 6.0))
        given.append((coarse, fine))
        sets = tuple((1 << one).astype(np.uint32) for one in (coarse_truth, truth))
        made.append(View((), sets))
    frozen = FrozenBackbone(nn.Identity(), (1.0, 1.0), WINDOWS, setting_of(folder))
    said = Said(given, made, frozen).as_frozen()
    return Fitter(said, made, (0, 1, 2), select=select, median_px=1)


def logits_of(labels: np.ndarray, sureness: np.ndarray) -> Tensor:
    """Logits (1, C, H, W) of labels, by so much above the rest."""
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), CLASSES).permute(2, 0, 1)[None].float()
    return one_hot * torch.from_numpy(sureness).float()


class TakesFine(nn.Module):
    """A refinement module that says what the fine scale says."""

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """Logits of O."""
        return fine.clamp(min=1e-9).log()


def test_where_the_fine_scale_is_right_everything_is_refined(tmp_path: Path) -> None:
    fitted = fitter(tmp_path, fine_right=True).fit([TakesFine()])
    assert fitted.select_above == (0.0,)
    assert fitted.miou[1] == 1
    assert fitted.miou[0] < 0.9


def test_where_refining_is_always_wrong_little_is_let_through(tmp_path: Path) -> None:
    fitted = fitter(tmp_path, fine_right=False).fit([TakesFine()])
    assert fitted.select_above[0] >= 0.6
    assert fitted.miou[1] > 0.8


def test_thresholds_are_the_best_of_those_that_are_tried(tmp_path: Path) -> None:
    fit = fitter(tmp_path, fine_right=False)
    fitted = fit.fit([TakesFine()])
    worth = []
    for above in THRESHOLDS:
        fit._candidates = [(above, 0.0)]
        worth.append(fit.fit([TakesFine()]).miou[1])
    assert fitted.miou[1] == pytest.approx(max(worth))


def test_a_soft_selection_is_at_least_as_good_as_a_hard_one(tmp_path: Path) -> None:
    hard, soft = (fitter(tmp_path, fine_right=False, select=one).fit([TakesFine()]) for one in ("hard", "soft"))
    assert soft.miou[1] >= hard.miou[1] - 1e-5
    assert hard.select_width == (0.0,)


def test_where_nothing_changes_everything_is_refined_all_the_same(tmp_path: Path) -> None:
    assert fitter(tmp_path, fine_right=True).fit([TakesCoarse()]).select_above == (0.0,)


class TakesCoarse(nn.Module):
    """A refinement module that changes nothing."""

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """Logits of Y."""
        return coarse.clamp(min=1e-9).log()


def test_temperatures_are_fitted_at_each_scale(tmp_path: Path) -> None:
    honest = tuple(
        2 * torch.randn(1, CLASSES, side, side, generator=torch.Generator().manual_seed(side)) for side in (64, 128)
    )
    sets = tuple(drawn_from(one, 1)[0].numpy().astype(np.uint32) for one in honest)
    view = View((), sets)
    frozen = FrozenBackbone(nn.Identity(), (1.0, 1.0), WINDOWS, setting_of(tmp_path))
    said = Said([(2 * honest[0], 0.5 * honest[1])], [view], frozen).as_frozen()
    assert fit_temperatures(said, [view]) == pytest.approx((2, 0.5), rel=0.1)


def module(seed: int) -> RefinementModule:
    torch.manual_seed(seed)
    made = RefinementModule(CLASSES)
    made.eval().requires_grad_(False)
    return made


def test_calibration_divides_the_logits_of_a_module(tmp_path: Path) -> None:
    own = module(0)
    maps = {"fine": torch.rand(1, CLASSES, 16, 16), "coarse": torch.rand(1, CLASSES, 16, 16)}
    before = own(**maps)
    (temperature,) = fitter(tmp_path, fine_right=True).calibrate([own])
    torch.testing.assert_close(own(**maps), before / temperature)
    assert temperature != pytest.approx(1, abs=0.01)


class Weighed(nn.Module):
    """Says what Y says, through a last layer that can be calibrated."""

    def __init__(self) -> None:
        super().__init__()
        self.seg_conv = nn.Conv2d(CLASSES, CLASSES, 1, bias=False)
        nn.init.dirac_(self.seg_conv.weight)
        self.requires_grad_(False)

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """Logits of Y."""
        logits: Tensor = self.seg_conv(coarse.clamp(min=1e-9).log())
        return logits

    def divide_logits(self, temperature: float) -> None:
        """See `RefinementModule`."""
        self.seg_conv.weight.div_(temperature)


def test_a_calibrated_module_needs_no_more_calibration(tmp_path: Path) -> None:
    own, fit = Weighed(), fitter(tmp_path, fine_right=True)
    (first,) = fit.calibrate([own])
    (second,) = fit.calibrate([own])
    assert first > 1.1
    assert second == pytest.approx(1, rel=0.03)


class Seeing(Weighed):
    """Says what the pixels say: red is the first class, green the second."""

    uses_rgb = True

    def forward(self, *, fine: Tensor, coarse: Tensor, rgb: Tensor | None = None) -> Tensor:
        """Logits of the colours."""
        assert rgb is not None
        assert rgb.shape[-2:] == coarse.shape[-2:]
        logits: Tensor = self.seg_conv(6 * rgb)
        return logits


def test_a_module_that_uses_the_pixels_is_fitted_on_them(tmp_path: Path) -> None:
    fit = fitter(tmp_path, fine_right=False)
    for i, view in enumerate(fit._views):
        patches = []
        for scale, sets in enumerate(view.sets):
            colours = np.eye(3, dtype=np.uint8)[np.log2(sets).astype(int)] * 255
            patches.append(np.pad(colours, ((WINDOWS.halo_at(scale),) * 2,) * 2 + ((0, 0),)))
        shown = replace(view, patches=tuple(patches))
        fit._frozen.said[id(shown)] = fit._frozen.said[id(view)]  # type: ignore[attr-defined]
        fit._views = [*fit._views[:i], shown, *fit._views[i + 1 :]]
    own = Seeing()
    (temperature,) = fit.calibrate([own])
    assert temperature < 1, "it is always right, so that it may be more certain"
    assert fit.fit([own]).miou[-1] == 1


def test_a_shared_module_is_calibrated_once(tmp_path: Path) -> None:
    own = module(2)
    weight = own.seg_conv.weight.clone()
    fit = fitter(tmp_path, fine_right=True)
    fit._backbone_outputs = [
        (said[0], said[1], torch.rand(1, CLASSES, 256, 256).softmax(dim=1)) for said in fit._backbone_outputs
    ]
    fit._views = [replace(view, sets=(*view.sets, np.ones((256, 256), np.uint32))) for view in fit._views]
    temperatures = fit.calibrate([own, own])
    assert len(temperatures) == 1
    torch.testing.assert_close(own.seg_conv.weight, weight / temperatures[0])


def obvious_threshold(unsure: np.ndarray, without: np.ndarray, refined: np.ndarray, needed: float) -> float:
    """The same as `least_uncertainty`, by trying every threshold."""

    def miou_above(threshold: float) -> float:
        counts = sum(r if u >= threshold else w for u, w, r in zip(unsure, without, refined, strict=True))
        return float(np.nan_to_num(mean_iou(np.asarray(counts))))

    best = 0.0
    for threshold in sorted(set(unsure.tolist())):  # from all blocks to the most uncertain ones
        if miou_above(threshold) < needed:
            break
        best = 0.0 if threshold == min(unsure) else threshold
    return best


@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    levels=st.sampled_from([2, 5, 1000]),
    lost=st.sampled_from([0.0, 0.01, 0.1, 1.0]),
)
def test_the_threshold_of_auto_is_that_of_trying_every_one(n: int, seed: int, levels: int, lost: float) -> None:
    rng = np.random.default_rng(seed)
    unsure = rng.integers(0, levels, n) / 1000
    without, refined = rng.integers(0, 50, (2, n, 3, 3))
    needed = float(mean_iou(refined.sum(axis=0))) - lost
    found = least_uncertainty(unsure, without, refined, needed)
    assert found == pytest.approx(obvious_threshold(unsure, without, refined, needed), abs=1.01e-4)


def counts(right: int, wrong: int) -> np.ndarray:
    """Confusion counts of a block with as many pixels of either of two classes."""
    return np.array([[right, wrong], [wrong, right]])


def test_blocks_that_gain_are_refined_by_auto() -> None:
    unsure = np.array([0.1, 0.2, 0.3, 0.4])
    without = np.stack([counts(10, 0), counts(10, 0), counts(6, 4), counts(6, 4)])
    assert least_uncertainty(unsure, without, np.stack([counts(10, 0)] * 4), 1.0) == pytest.approx(0.3)


def test_where_nothing_gains_auto_refines_the_least_sure_block_alone() -> None:
    same = np.stack([counts(8, 2)] * 3)
    assert least_uncertainty(np.array([0.1, 0.5, 0.3]), same, same, 0.6) == pytest.approx(0.5)


def test_where_the_surest_block_gains_auto_refines_everything() -> None:
    unsure, without = np.array([0.1, 0.5]), np.stack([counts(5, 5), counts(10, 0)])
    refined = np.stack([counts(10, 0)] * 2)
    assert least_uncertainty(unsure, without, refined, 0.99) == 0
    assert least_uncertainty(unsure, without, refined, 2.0) == 0, "nothing is enough"


def test_a_number_of_blocks_that_is_enough_by_luck_is_not_taken() -> None:
    """Refining the first block alone is better than all; refining the second as well is worse than is allowed."""
    unsure = np.array([0.9, 0.5, 0.1])
    without = np.stack([counts(5, 5), counts(10, 0), counts(5, 5)])
    refined = np.stack([counts(10, 0), counts(0, 10), counts(10, 0)])
    assert least_uncertainty(unsure, without, refined, float(mean_iou(refined.sum(axis=0)))) == 0


def test_auto_loses_no_more_than_it_may(tmp_path: Path) -> None:
    fit = fitter(tmp_path, fine_right=True, views=3)
    fitted = fit.fit([TakesFine()])
    outputs = [(double(coarse), fine) for coarse, fine in fit._backbone_outputs]
    side = _block_px(128, 3, 512)
    merged = []
    for coarse, fine in outputs:
        unsure = torch.nn.functional.avg_pool2d(uncertainty(coarse), side)
        chosen = torch.nn.functional.interpolate((unsure >= fitted.refine_above[0]).float(), scale_factor=side) > 0
        merged.append(torch.where(chosen, fine, coarse))
    assert fit._score(merged, 1) >= fitted.miou[1] - MIOU_LOST - 1e-9


@pytest.mark.parametrize(
    ("side", "views", "cell", "block"),
    [
        (512, 64, 512, 512),
        (512, 16, 512, 256),
        (512, 2, 512, 64),
        (2048, 64, 512, 512),
        (128, 1, 512, 64),
        (32, 1, 512, 32),
        (512, 64, 256, 256),
        (512, 64, 128, 128),
        (512, 1, 128, 64),
    ],
)
def test_blocks_are_as_large_as_cells_where_there_are_enough(side: int, views: int, cell: int, block: int) -> None:
    assert _block_px(side, views, cell) == block


def test_a_fit_has_a_number_for_each_scale(tmp_path: Path) -> None:
    fitted = fitter(tmp_path, fine_right=True).fit([IdentityRefiner()])
    steps = (fitted.select_above, fitted.select_width, fitted.refine_above)
    assert [*map(len, steps), len(fitted.miou)] == [1, 1, 1, 2]
