"""Temperatures and thresholds of a bundle, fitted on the validation rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.annotations.types import full_set
from wsi_magnet.magnet.selection import mixing_weight
from wsi_magnet.magnet.step import magnet_step, refine_patch
from wsi_magnet.magnet.uncertainty import query_score, uncertainty
from wsi_magnet.train.frozen_backbone import FrozenBackbone, double
from wsi_magnet.train.losses import set_loss
from wsi_magnet.train.score import ConfusionCounts
from wsi_magnet.train.views import View, to_sets

log = logging.getLogger(__name__)

TEMPERATURE_RANGE = (0.25, 8.0)
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
RAMPS = (0.1, 0.2, 0.4)
"""Widths of a soft selection."""
BLOCK_PX = 64
"""Side of the blocks on which `refine_above` is fitted, because validation rows may hold few cells of 512 px."""
CHANGE_MISSED = 0.01
"""Share of the changed pixels that may lie in blocks which `--refine auto` leaves out."""


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


def fit_temperatures(frozen: FrozenBackbone, views: Sequence[View]) -> tuple[float, ...]:
    """Temperatures of the backbone, one a scale."""
    scales, found = frozen.windows.scales, []
    for scale in range(scales):
        log.info("fitting the backbone's temperature at scale %d of %d", scale + 1, scales)
        logits = [frozen.logits(view, scale) for view in views]
        found.append(fit_temperature(logits, _truths(views, scale, frozen)))
    return tuple(found)


def _truths(views: Sequence[View], scale: int, frozen: FrozenBackbone) -> list[Tensor]:
    return [to_sets([view.sets[scale]], frozen.setting.device) for view in views]


class Fitter:
    """Fits thresholds step by step up the ladder, on the validation views."""

    def __init__(
        self, frozen: FrozenBackbone, views: Sequence[View], part_of: tuple[int, ...], *, select: str, median_px: int
    ) -> None:
        self._frozen, self._views, self._part_of = frozen, views, part_of
        self._median_px = median_px
        ramps = (0.0,) if select == "hard" else (0.0, *RAMPS)
        self._candidates = [(above, width) for above, width in product(THRESHOLDS, ramps)]
        self._backbone_outputs = [frozen.probabilities(view) for view in views]

    @torch.no_grad()
    def fit(self, modules: Sequence[nn.Module]) -> Fitted:
        """modules: the refinement module of each step. Calibrates none of them: see `calibrate`."""
        cumulative = [outputs[0] for outputs in self._backbone_outputs]
        chosen, refine_above, mious = [], [], [self._score(cumulative, 0)]
        for scale, module in enumerate(modules, start=1):
            log.info("fitting thresholds at scale %d of %d", scale + 1, len(modules) + 1)
            coarse = [double(one) for one in cumulative]
            refined = [
                refine_patch(fine=outputs[scale], coarse=y, refiner=module)
                for outputs, y in zip(self._backbone_outputs, coarse, strict=True)
            ]
            scores = [self._query(y, r, scale) for y, r in zip(coarse, refined, strict=True)]
            found = [self._score(_mix(coarse, refined, scores, *one), scale) for one in self._candidates]
            best = int(np.argmax(np.round(found, 5)))  # the first, which refines most, of those that are as good
            log.debug("scale %d: mIoU %s", scale, dict(zip(self._candidates, np.round(found, 4).tolist(), strict=True)))
            cumulative = _mix(coarse, refined, scores, *self._candidates[best])
            chosen.append(self._candidates[best])
            refine_above.append(_refine_above(coarse, cumulative))
            mious.append(found[best])
        above, width = zip(*chosen, strict=True)
        return Fitted(tuple(above), tuple(width), tuple(refine_above), tuple(mious))

    def _query(self, coarse: Tensor, refined: Tensor, scale: int) -> Tensor:
        grid_hw = (coarse.shape[-2] >> scale, coarse.shape[-1] >> scale)
        return query_score(coarse=coarse, refined=refined, grid_hw=grid_hw, median_px=self._median_px)

    def _score(self, maps: Sequence[Tensor], scale: int) -> float:
        scorer = ConfusionCounts(self._part_of)
        for view, one in zip(self._views, maps, strict=True):
            scorer.add(one, view.sets[scale])
        return scorer.miou

    @torch.no_grad()
    def calibrate(self, modules: Sequence[nn.Module]) -> tuple[float, ...]:
        """Scale each module's last layer, which is linear, by the temperature that fits it; returns these.

        The query score compares two uncertainties, so both maps must be calibrated. Y is the output of the modules with
        everything refined; a module that serves several steps is fitted on all of them.
        """
        log.info("fitting the temperatures of the refinement modules")
        logits: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}
        truths: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}
        for view, outputs in zip(self._views, self._backbone_outputs, strict=True):
            cumulative = outputs[0]
            for scale, module in enumerate(modules, start=1):
                one = module(fine=outputs[scale], coarse=double(cumulative)).float()
                logits[module].append(one)
                truths[module].append(to_sets([view.sets[scale]], self._frozen.setting.device))
                cumulative = one.softmax(dim=1)
        temperatures = {module: fit_temperature(logits[module], truths[module]) for module in logits}
        for module, temperature in temperatures.items():
            module.seg_conv.weight.div_(temperature)  # type: ignore[union-attr, operator]
        return tuple(temperatures.values())


def _mix(
    coarse: Sequence[Tensor], refined: Sequence[Tensor], scores: Sequence[Tensor], above: float, width: float
) -> list[Tensor]:
    return [
        magnet_step(coarse=y, refined=r, selected=mixing_weight(q, above, width))
        for y, r, q in zip(coarse, refined, scores, strict=True)
    ]


def _refine_above(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The mean uncertainty below which blocks hold no more than `CHANGE_MISSED` of all pixels that change class."""
    unsure = torch.cat([_blocks(uncertainty(one)) for one in before])
    changed = torch.cat(
        [
            _blocks((one.argmax(dim=1) != two.argmax(dim=1)).float().unsqueeze(1))
            for one, two in zip(before, after, strict=True)
        ]
    )
    order = unsure.argsort()
    missed = changed[order].cumsum(dim=0) / changed.sum().clamp(min=1e-9)
    first_kept = int((missed <= CHANGE_MISSED).sum())
    return round(unsure[order][min(first_kept, len(order) - 1)].item(), 4)


def _blocks(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, min(BLOCK_PX, values.shape[-1]), ceil_mode=True).flatten()
