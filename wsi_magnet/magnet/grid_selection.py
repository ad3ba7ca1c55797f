"""Selection on the coarsest scale's grid, from the sampled pixels alone.

The result equals `mixing_weight(query_score(...))`, which samples one pixel per block, blurs, and spreads the result
over the block again; here the other pixels are not computed.

N: batch, C: classes, H, W: size of the map, h, w: of the grid, H / ratio and W / ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.magnet.selection import count_points, mixing_weight
from wsi_magnet.magnet.uncertainty import confidence, median_blur, uncertainty


def select_on_grid(
    *, coarse: Tensor, refined: Tensor, ratio: int, above: float, width: float, median_px: int
) -> Tensor:
    """Weight of R in each block (paper, section 3.3).

    coarse: Y, refined: R, both float (N, C, H, W), probabilities; H and W multiples of `ratio`. above, width: see
    `mixing_weight`. median_px: odd side of the blur's window on the grid. Returns float (N, 1, h, w) in [0, 1].
    """
    score = uncertainty(sample(coarse, ratio)) * confidence(sample(refined, ratio))
    if width:
        return mixing_weight(median_blur(score, median_px), above, width)
    return median_reaches(score, above, median_px).to(score.dtype)


def select_fraction_on_grid(*, coarse: Tensor, refined: Tensor, ratio: int, points: float, median_px: int) -> Tensor:
    """The best k pixels of an image, as `select_fraction` of `query_score` chooses them, computed block by block.

    coarse: Y, refined: R, both float (1, C, H, W), probabilities; H and W multiples of `ratio`. points: k, as there.
    Returns float (1, 1, H, W), 0 or 1.
    """
    score = median_blur(uncertainty(sample(coarse, ratio)) * confidence(sample(refined, ratio)), median_px)
    k = count_points(points, score.numel() * ratio**2)
    if k == 0:
        return spread(torch.zeros_like(score), ratio)
    # All pixels of a block have one score; the k-th best pixel lies in the block that fills up k.
    block = score.flatten().topk(-(-k // ratio**2)).values[-1]
    above, tied = score > block, score == block
    left = k - int(above.sum()) * ratio**2
    if left == int(tied.sum()) * ratio**2:
        return spread((above | tied).to(score.dtype), ratio)
    among = spread(tied, ratio).flatten()  # the first in raster order, as everywhere
    chosen = spread(above, ratio).flatten() | (among & (among.cumsum(0) <= left))
    return chosen.view(1, 1, *refined.shape[-2:]).to(score.dtype)


def may_select(*, coarse: Tensor, ratio: int, above: float, median_px: int) -> Tensor:
    """Blocks in which R could be selected, whatever its values: bool (N, 1, h, w).

    Where all are False no network need be run. Arguments as for `select_on_grid`.
    """
    return median_reaches(uncertainty(sample(coarse, ratio)), above, median_px)


def refined_pixels(selectable: Tensor, *, rim: int, ratio: int, median_px: int) -> Tensor:
    """Pixels that must be refined to decide the blocks inside a rim: the windows of their medians.

    selectable: bool (1, 1, h, w), see `may_select`; its outermost `rim` blocks are not decided. Returns bool
    (H, W).
    """
    h, w = selectable.shape[-2:]
    inside = F.pad(selectable[..., rim : h - rim, rim : w - rim].float(), (rim,) * 4)
    windows = F.max_pool2d(inside, median_px, stride=1, padding=median_px // 2)
    return spread(windows > 0, ratio)[0, 0]


def median_reaches(score: Tensor, above: float, median_px: int) -> Tensor:
    """`median_blur(score, median_px) >= above` for scores of at least 0, without sorting.

    A median reaches a value where more than half of its window does, and those are counted by adding. Float
    (N, 1, h, w) to bool; beyond the edge scores are 0.
    """
    if above <= 0:
        return torch.ones_like(score, dtype=torch.bool)
    reached = (score >= above).to(score.dtype)
    # Whole numbers below 2600, which float32 adds without rounding.
    count = F.avg_pool2d(reached, median_px, stride=1, padding=median_px // 2, divisor_override=1)
    return count > median_px**2 / 2


def sample(p: Tensor, ratio: int) -> Tensor:
    """The pixel of each block that nearest resizing takes: (N, C, H, W) to (N, C, h, w), a view."""
    return p[..., ::ratio, ::ratio]


def spread(weight: Tensor, ratio: int) -> Tensor:
    """Each block's value for all its pixels: (N, 1, h, w) to (N, 1, H, W)."""
    return weight.repeat_interleave(ratio, dim=-2).repeat_interleave(ratio, dim=-1)
