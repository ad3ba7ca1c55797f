"""Temperatures and thresholds of a bundle, fitted on the validation rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.annotations.types import full_set
from wsi_magnet.config import DEFAULT_CELL_PX
from wsi_magnet.magnet.selection import mixing_weight
from wsi_magnet.magnet.step import magnet_step, refine_patch, uses_rgb
from wsi_magnet.magnet.uncertainty import query_score, uncertainty
from wsi_magnet.methods.losses import set_loss
from wsi_magnet.metrics.confusion import Confusion, Values, mean_iou
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.train.frozen_backbone import FrozenBackbone, double
from wsi_magnet.train.score import ConfusionCounts, block_counts
from wsi_magnet.train.views import View, to_sets

log = logging.getLogger(__name__)

T = TypeVar("T")

TEMPERATURE_RANGE = (0.25, 8.0)
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
RAMPS = (0.1, 0.2, 0.4)
"""Widths of a soft selection."""
LEAST_BLOCKS, LEAST_BLOCK_PX = 64, 64
"""Number of blocks on which `refine_above` is fitted at least, as far as their side allows. A block stands for a cell,
and is smaller only where the validation views are small or few: the smaller it is, the more its mean varies."""
MIOU_LOST = 0.001
"""MIoU on the validation rows that `--refine auto` may lose against refining everything, over all scales together."""


Progress = Callable[[int, int], None]
"""Callback with finished and all parts of the work."""


def _ignore(done: int, parts: int) -> None:
    """Default progress: no output."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Fitted values, one for every scale but the coarsest."""

    select_above: tuple[float, ...]
    select_width: tuple[float, ...]
    refine_above: tuple[float, ...]
    miou: tuple[float, ...]
    """MIoU of the merged result after each scale on the validation rows, coarsest first."""


def fit_temperature(logits: Sequence[Tensor], sets: Sequence[Tensor]) -> float:
    """Temperature with the least set loss within `TEMPERATURE_RANGE` (Guo et al. 2017).

    logits: float32 (1, C, H, W) each; sets: int32 (1, H, W) each.
    """
    labelled = [int((truth != full_set(one.shape[1])).sum()) for one, truth in zip(logits, sets, strict=True)]

    def loss(log_temperature: float) -> float:
        divisor = float(np.exp(log_temperature))
        losses = [set_loss(one / divisor, truth).item() for one, truth in zip(logits, sets, strict=True)]
        return float(np.dot(losses, labelled))

    bounds = (float(np.log(TEMPERATURE_RANGE[0])), float(np.log(TEMPERATURE_RANGE[1])))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.01})
    return round(float(np.exp(found.x)), 3)


def fit_temperatures(frozen: FrozenBackbone, views: Sequence[View], progress: Progress = _ignore) -> tuple[float, ...]:
    """Temperatures of the backbone, one a scale."""
    scales, found = frozen.windows.scales, []
    for scale in range(scales):
        log.info("fitting the backbone's temperature at scale %d of %d", scale + 1, scales)
        logits = []
        for view in views:
            logits.append(frozen.logits(view, scale))
            progress(scale * len(views) + len(logits), scales * len(views))
        found.append(fit_temperature(logits, _truths(views, scale, frozen)))
    return tuple(found)


def _truths(views: Sequence[View], scale: int, frozen: FrozenBackbone) -> list[Tensor]:
    return [to_sets([view.sets[scale]], frozen.setting.device) for view in views]


class Fitter:
    """Fits thresholds step by step up the ladder, on the validation views."""

    def __init__(
        self,
        frozen: FrozenBackbone,
        views: Sequence[View],
        part_of: tuple[int, ...],
        *,
        select: str,
        median_px: int,
        cell_px: int = DEFAULT_CELL_PX,
        progress: Progress = _ignore,
    ) -> None:
        """cell_px: side of the cells that `--refine auto` chooses from."""
        self._frozen, self._views, self._part_of = frozen, views, part_of
        self._median_px, self._cell_px = median_px, cell_px
        ramps = (0.0,) if select == "hard" else (0.0, *RAMPS)
        self._candidates = [(above, width) for above, width in product(THRESHOLDS, ramps)]
        steps = frozen.windows.scales - 1
        self._progress, self._done = progress, 0
        self._parts = len(views) * (2 + steps * (2 + len(self._candidates)))
        self._backbone_outputs = [self._counted(frozen.probabilities(view)) for view in views]

    def _counted(self, result: T) -> T:
        """The result of a part of the work, which is thereby counted."""
        self._done += 1
        self._progress(self._done, self._parts)
        return result

    @torch.no_grad()
    def fit(self, modules: Sequence[nn.Module]) -> Fitted:
        """modules: the refinement module of each step. Calibrates none of them: see `calibrate`."""
        cumulative = automatic = [outputs[0] for outputs in self._backbone_outputs]
        chosen, refine_above, mious = [], [], [self._score(cumulative, 0)]
        for scale, module in enumerate(modules, start=1):
            log.info("fitting thresholds at scale %d of %d", scale + 1, len(modules) + 1)
            coarse, refined, scores = self._refined(cumulative, module, scale)
            found = [self._score(_mix(coarse, refined, scores, *one), scale, counted=True) for one in self._candidates]
            best = int(np.argmax(np.round(found, 5)))  # the first, which refines most, of those that are as good
            log.debug("scale %d: mIoU %s", scale, dict(zip(self._candidates, np.round(found, 4).tolist(), strict=True)))
            cumulative = _mix(coarse, refined, scores, *self._candidates[best])
            chosen.append(self._candidates[best])
            mious.append(found[best])
            coarse, refined, scores = self._refined(automatic, module, scale)
            mixed = _mix(coarse, refined, scores, *self._candidates[best])
            needed = found[best] - MIOU_LOST * scale / len(modules)
            threshold, automatic = self._refine_uncertain(coarse, mixed, scale, needed)
            refine_above.append(threshold)
        above, width = zip(*chosen, strict=True)
        return Fitted(tuple(above), tuple(width), tuple(refine_above), tuple(mious))

    @torch.no_grad()
    def score(self, modules: Sequence[nn.Module], spec: BundleSpec) -> tuple[float, ...]:
        """MIoU after each scale with the thresholds of a bundle. modules: the refinement module of each step."""
        cumulative = [outputs[0] for outputs in self._backbone_outputs]
        mious = [self._score(cumulative, 0)]
        for scale, module in enumerate(modules, start=1):
            maps = self._refined(cumulative, module, scale)
            cumulative = _mix(*maps, spec.select_above[scale - 1], spec.width_of(scale - 1))
            mious.append(self._score(cumulative, scale))
        return tuple(mious)

    def _refined(
        self, cumulative: Sequence[Tensor], module: nn.Module, scale: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Y, R and Q of every view at a scale. cumulative: the merged result after the scale before."""
        coarse = [double(one) for one in cumulative]
        refined = [
            self._counted(
                refine_patch(fine=outputs[scale], coarse=y, refiner=module, rgb=self._rgb(view, module, scale))
            )
            for view, outputs, y in zip(self._views, self._backbone_outputs, coarse, strict=True)
        ]
        return coarse, refined, [self._query(y, r, scale) for y, r in zip(coarse, refined, strict=True)]

    def _rgb(self, view: View, module: nn.Module, scale: int) -> Tensor | None:
        """Pixels of a view, for a module that uses them."""
        return self._frozen.rgb(view, scale) if uses_rgb(module) else None

    def _refine_uncertain(
        self, coarse: Sequence[Tensor], mixed: Sequence[Tensor], scale: int, needed: float
    ) -> tuple[float, list[Tensor]]:
        """Threshold of `--refine auto` at a scale, and the merged result of every view with it.

        coarse, mixed: Y without and with refining. needed: mIoU to reach.
        """
        side = _block_px(coarse[0].shape[-1], len(coarse), self._cell_px)
        unsure = [F.avg_pool2d(uncertainty(one), side) for one in coarse]
        sets = [view.sets[scale] for view in self._views]
        without, refined = (
            np.concatenate([block_counts(*pair, self._part_of, side) for pair in zip(maps, sets, strict=True)])
            for maps in (coarse, mixed)
        )
        scores = torch.cat([one.flatten() for one in unsure]).cpu().numpy()
        threshold = least_uncertainty(scores, without, refined, needed)
        chosen = [F.interpolate((one >= threshold).float(), scale_factor=side) > 0 for one in unsure]
        return threshold, [torch.where(*three) for three in zip(chosen, mixed, coarse, strict=True)]

    def _query(self, coarse: Tensor, refined: Tensor, scale: int) -> Tensor:
        grid_hw = (coarse.shape[-2] >> scale, coarse.shape[-1] >> scale)
        return query_score(coarse=coarse, refined=refined, grid_hw=grid_hw, median_px=self._median_px)

    def _score(self, maps: Sequence[Tensor], scale: int, *, counted: bool = False) -> float:
        scorer = ConfusionCounts(self._part_of)
        for view, one in zip(self._views, maps, strict=True):
            scorer.add(one, view.sets[scale])
            if counted:
                self._counted(None)
        return scorer.miou

    @torch.no_grad()
    def calibrate(self, modules: Sequence[nn.Module]) -> tuple[float, ...]:
        """Divide each module's logits by the temperature that fits them; returns these.

        The query score compares two uncertainties, so both maps must be calibrated. Y is the output of the modules with
        everything refined; a module that serves several steps is fitted on all of them.
        """
        log.info("fitting the temperatures of the refinement modules")
        logits: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}
        truths: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}
        for view, outputs in zip(self._views, self._backbone_outputs, strict=True):
            cumulative = outputs[0]
            for scale, module in enumerate(modules, start=1):
                maps = {"fine": outputs[scale], "coarse": double(cumulative)}
                rgb = self._rgb(view, module, scale)
                one = module(**maps if rgb is None else {**maps, "rgb": rgb}).float()
                logits[module].append(one)
                truths[module].append(to_sets([view.sets[scale]], self._frozen.setting.device))
                cumulative = one.softmax(dim=1)
            self._counted(None)
        temperatures = {module: fit_temperature(logits[module], truths[module]) for module in logits}
        for module, temperature in temperatures.items():
            module.divide_logits(temperature)  # type: ignore[operator]
        return tuple(temperatures.values())


def _mix(
    coarse: Sequence[Tensor], refined: Sequence[Tensor], scores: Sequence[Tensor], above: float, width: float
) -> list[Tensor]:
    return [
        magnet_step(coarse=y, refined=r, selected=mixing_weight(q, above, width))
        for y, r, q in zip(coarse, refined, scores, strict=True)
    ]


def least_uncertainty(unsure: Values, without: Confusion, refined: Confusion, needed: float) -> float:
    """Threshold that refines as few blocks as possible, the most uncertain ones, and reaches an mIoU.

    unsure: float (n,), mean uncertainty of each block. without, refined: int64 (n, P, P), its confusion counts if it is
    not refined, and if it is. Fewer blocks are taken only if any number between suffices too; at least the most
    uncertain one is refined. 0 where all of them are needed, or even they do not reach it.
    """
    order = np.argsort(-unsure, kind="stable")
    gained = np.cumsum((refined - without)[order], axis=0)
    enough = np.nan_to_num(mean_iou(without.sum(axis=0) + gained)) >= needed  # with the first, the first two, ...
    ends_tie = np.append(unsure[order][1:] < unsure[order][:-1], True)  # a threshold takes equal blocks together
    lacking = np.flatnonzero(ends_tie & ~enough)
    first = int(lacking[-1]) + 1 if len(lacking) else 0
    last = first + int(np.argmax(ends_tie[first:])) if first < len(order) else first
    return 0.0 if last >= len(order) - 1 else float(np.floor(unsure[order[last]] * 1e4) / 1e4)


def _block_px(side_px: int, views: int, cell_px: int) -> int:
    """Side of the blocks of views with that side: at most a cell's, smaller where that gives too few."""
    block = side_px
    while block > cell_px or (block > LEAST_BLOCK_PX and views * (side_px // block) ** 2 < LEAST_BLOCKS):
        block //= 2
    return block
