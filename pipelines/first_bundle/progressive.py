"""MagNet over one tile in memory, in the same cells, halo and steps as on a slide, mirrored at the tile's edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from first_bundle.crops import normalise, resample
from first_bundle.models import Backbone, double
from first_bundle.tiles import Pixels, Tile
from wsi_magnet.config import CELL_PX
from wsi_magnet.geometry import ceil_div
from wsi_magnet.refine.points import select_threshold
from wsi_magnet.refine.step import Refiner, magnet_step, refine_patch
from wsi_magnet.refine.uncertainty import query_score

HALO_PX = 32
MEDIAN_PX = 5
PATCH_PX = CELL_PX + 2 * HALO_PX


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one scale would write, before any pixel is chosen; all float32 (1, C or 1, H, W)."""

    fine: Tensor
    """The backbone's probabilities at this scale alone."""
    coarse: Tensor
    """The cumulative probabilities of the scale before, enlarged."""
    refined: Tensor
    score: Tensor
    """How much it speaks for overwriting coarse by refined."""

    def merge(self, above: float) -> Tensor:
        """The cumulative probabilities after this scale: refined where the score is at least `above`."""
        return magnet_step(coarse=self.coarse, refined=self.refined, selected=select_threshold(self.score, above))


def pyramid(tile: Tile, mpps: Sequence[float]) -> tuple[list[Pixels], list[Pixels]]:
    """Images and sets of a tile at every scale, coarse to fine, all of one field of view."""
    pixels = int(min(tile.sets.shape) * tile.mpp / mpps[0])
    side = pixels * mpps[0] / tile.mpp
    levels = [resample(tile, (0, 0, side, side), pixels << scale) for scale in range(len(mpps))]
    return [image for image, _ in levels], [sets for _, sets in levels]


def logits_of(image: Pixels, backbone: Backbone) -> Tensor:
    """The backbone's logits on uint8 (H, W, 3), float32 (1, C, H, W)."""
    return _by_cells([normalise(image)[None]], backbone.logits)


def propose(image: Pixels, cumulative: Tensor, backbone: Backbone, refiner: Refiner, scale: int) -> Proposal:
    """Everything of one scale but the choice. cumulative: of the scale before, (1, C, H / 2, W / 2)."""

    def patch(image: Tensor, coarse: Tensor) -> Tensor:
        fine = backbone(image, scale)
        refined = refine_patch(fine=fine, coarse=coarse, refiner=refiner)
        grid = PATCH_PX >> scale
        score = query_score(coarse=coarse, refined=refined, grid_hw=(grid, grid), median_px=MEDIAN_PX)
        return torch.cat([fine, refined, score], dim=1)

    coarse = double(cumulative)
    maps = _by_cells([normalise(image)[None], coarse], patch)
    classes = coarse.shape[1]
    fine, refined, score = maps.split([classes, classes, 1], dim=1)
    return Proposal(fine, coarse, refined, score)


@torch.inference_mode()
def _by_cells(maps: Sequence[Tensor], patch: Callable[..., Tensor]) -> Tensor:
    """Apply `patch` to every cell with its halo, all maps cut alike, and put the cells together."""
    height, width = maps[0].shape[-2:]
    padded = [_mirrored(m) for m in maps]
    rows = []
    for y in range(0, height, CELL_PX):
        cells = [patch(*(m[..., y : y + PATCH_PX, x : x + PATCH_PX] for m in padded)) for x in range(0, width, CELL_PX)]
        rows.append(torch.cat([c[..., HALO_PX:-HALO_PX, HALO_PX:-HALO_PX] for c in cells], dim=-1))
    return torch.cat(rows, dim=-2)[..., :height, :width]


def _mirrored(maps: Tensor) -> Tensor:
    margins = [(HALO_PX, ceil_div(n, CELL_PX) * CELL_PX - n + HALO_PX) for n in maps.shape[-2:]]
    return torch.from_numpy(np.pad(maps.numpy(), [(0, 0), (0, 0), *margins], mode="symmetric"))
