"""The few numbers of a bundle that are fitted, not learned: temperatures and thresholds, on tiles not trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from first_bundle.losses import set_loss
from first_bundle.models import Backbone
from first_bundle.progressive import Proposal, logits_of, propose, pyramid
from first_bundle.tiles import Pixels, Tile
from wsi_magnet.refine.step import Refiner
from wsi_magnet.refine.uncertainty import uncertainty

log = logging.getLogger(__name__)

TEMPERATURES = np.geomspace(0.5, 4, 31)
SELECT_CANDIDATES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
BLOCK_PX = 64
"""The validation tiles hold too few cells of 512 px to fit `refine_above` on; blocks of this size stand for them."""
CHANGE_MISSED = 0.01
"""Share of the changed pixels that may lie in blocks which `--refine auto` leaves out."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """One of each for every scale but the coarsest."""

    select_above: tuple[float, ...]
    refine_above: tuple[float, ...]


def fit_temperatures(tiles: Sequence[Tile], mpps: Sequence[float], network: nn.Module) -> tuple[float, ...]:
    """For each scale the temperature with the least set loss."""
    backbone = Backbone(network, (1.0,) * len(mpps))
    fitted = []
    for scale in range(len(mpps)):
        levels = [(images[scale], sets[scale]) for images, sets in (pyramid(tile, mpps) for tile in tiles)]
        known = [(logits_of(image, backbone), _batch(sets)) for image, sets in levels]
        losses = [sum(set_loss(logits / float(t), sets).item() for logits, sets in known) for t in TEMPERATURES]
        fitted.append(round(float(TEMPERATURES[int(np.argmin(losses))]), 3))
    return tuple(fitted)


def fit_thresholds(
    tiles: Sequence[Tile], mpps: Sequence[float], backbone: Backbone, refiners: Sequence[Refiner]
) -> Thresholds:
    """Climb the ladder, at each scale taking the threshold with the least set loss before going on."""
    pyramids = [pyramid(tile, mpps) for tile in tiles]
    cumulative = [(logits_of(images[0], backbone) / backbone.temperatures[0]).softmax(dim=1) for images, _ in pyramids]
    select, refine = [], []
    for scale, refiner in enumerate(refiners, start=1):
        proposals = [
            propose(images[scale], y, backbone, refiner, scale)
            for (images, _), y in zip(pyramids, cumulative, strict=True)
        ]
        truths = [_batch(sets[scale]) for _, sets in pyramids]
        losses = [
            sum(_loss(p.merge(above), sets) for p, sets in zip(proposals, truths, strict=True))
            for above in SELECT_CANDIDATES
        ]
        log.info("scale %d: loss for each threshold %s", scale, np.round(losses, 4).tolist())
        above = SELECT_CANDIDATES[int(np.argmin(losses))]
        merged = [p.merge(above) for p in proposals]
        select.append(above)
        refine.append(_refine_above(proposals, merged))
        cumulative = merged
    return Thresholds(tuple(select), tuple(refine))


def _loss(probabilities: Tensor, sets: Tensor) -> float:
    return set_loss(probabilities.clamp(min=1e-6).log(), sets).item()


def _batch(sets: Pixels) -> Tensor:
    return torch.tensor(np.ascontiguousarray(sets))[None]


def _refine_above(proposals: Sequence[Proposal], merged: Sequence[Tensor]) -> float:
    """The mean uncertainty below which blocks hold no more than `CHANGE_MISSED` of all pixels that change class."""
    unsure = torch.cat([_blocks(uncertainty(p.coarse)) for p in proposals])
    changed = torch.cat(
        [
            _blocks((p.coarse.argmax(dim=1) != after.argmax(dim=1)).float().unsqueeze(1))
            for p, after in zip(proposals, merged, strict=True)
        ]
    )
    order = unsure.argsort()
    missed = changed[order].cumsum(dim=0) / changed.sum().clamp(min=1e-9)
    first_kept = int((missed <= CHANGE_MISSED).sum())
    return round(unsure[order][min(first_kept, len(order) - 1)].item(), 4)


def _blocks(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, BLOCK_PX, ceil_mode=True).flatten()
