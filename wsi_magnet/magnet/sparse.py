"""Refining only the blocks of a map where it can change something: most of a tissue is sure of itself.

H, W: size of the map.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.geometry import Box
from wsi_magnet.magnet.step import Refiner, refine_patch

BLOCK_PX = 64
"""Side of a block: a refinement module with a reach of 4 pixels computes a quarter more than is needed of one."""

WORTHWHILE = 0.75
"""Up to this share of the blocks; beyond it the margins cost more than is spared."""


def refine_blocks(*, fine: Tensor, coarse: Tensor, refiner: Refiner, needed: Tensor, reach_px: int) -> Tensor:
    """R = softmax(refiner(O, Y)) where it is needed, elsewhere even odds, whose score is nought.

    fine: O, coarse: Y, both float (1, C, H, W), probabilities. needed: bool (H, W). reach_px: how far the refiner
    looks. Returns float32 (1, C, H, W), probabilities.
    """
    rectangles = tuple(_rectangles(needed))
    if sum(r.size.pixels for r in rectangles) > WORTHWHILE * needed.numel():
        return refine_patch(fine=fine, coarse=coarse, refiner=refiner)
    refined = torch.full(fine.shape, 1 / fine.shape[1], device=fine.device)
    whole = Box(0, 0, needed.shape[1], needed.shape[0])
    for rectangle in rectangles:
        seen = rectangle.grow(reach_px).intersect(whole)
        rows, cols = seen.slices_yx
        part = refine_patch(fine=fine[..., rows, cols], coarse=coarse[..., rows, cols], refiner=refiner)
        own_rows, own_cols = rectangle.relative_to(seen).slices_yx
        rows, cols = rectangle.slices_yx
        refined[..., rows, cols] = part[..., own_rows, own_cols]
    return refined


def _rectangles(needed: Tensor) -> Iterator[Box]:
    """Runs of needed blocks, a row of blocks after the other."""
    height, width = needed.shape
    padded = F.pad(needed, (0, -width % BLOCK_PX, 0, -height % BLOCK_PX))
    rows, cols = padded.shape[0] // BLOCK_PX, padded.shape[1] // BLOCK_PX
    blocks = padded.view(rows, BLOCK_PX, cols, BLOCK_PX).any(dim=3).any(dim=1).tolist()
    for row, found in enumerate(blocks):
        start = None
        for col, one in enumerate([*found, False]):
            if one and start is None:
                start = col
            if not one and start is not None:
                yield Box(
                    start * BLOCK_PX, row * BLOCK_PX, min(col * BLOCK_PX, width), min((row + 1) * BLOCK_PX, height)
                )
                start = None
