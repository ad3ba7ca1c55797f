"""Uncertainty of a probability map, and the query score of a refined map over a coarse one.

N: batch, C: classes (at least 2), H, W: size of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.errors import ConfigError


def confidence(p: Tensor) -> Tensor:
    """The margin between the two likeliest classes (paper, section 3.3).

    p: float (N, C, H, W), probabilities over C. Returns float (N, 1, H, W) in [0, 1].
    """
    # A running first and second: topk over a strided axis takes several times as long.
    first = torch.maximum(p[:, 0], p[:, 1])
    second = torch.minimum(p[:, 0], p[:, 1])
    for one in p.unbind(dim=1)[2:]:
        second = torch.maximum(second, torch.minimum(first, one))
        first = torch.maximum(first, one)
    return (first - second).unsqueeze(1)


def uncertainty(p: Tensor) -> Tensor:
    """1 - `confidence`: 0 where one class has probability 1, 1 where two classes are equally likely."""
    return 1 - confidence(p)


def query_score(*, coarse: Tensor, refined: Tensor, grid_hw: tuple[int, int], median_px: int) -> Tensor:
    """Q = median blur of uncertainty(coarse) * (1 - uncertainty(refined)) (paper, section 3.3).

    coarse: Y, refined: R, both float (N, C, H, W), probabilities. grid_hw: (height, width) of the grid on which the
    blur works, the coarsest scale's: the score is nearest-resized to it and back, so pixels are chosen in blocks.
    median_px: odd side of the blur's window on that grid. Returns float (N, 1, H, W) in [0, 1].
    Raises ConfigError for an even `median_px`. Slides get the same selection from fewer pixels, by
    `grid_selection.select_on_grid`.
    """
    score = uncertainty(coarse) * confidence(refined)
    blurred = median_blur(F.interpolate(score, size=grid_hw, mode="nearest"), median_px)
    return F.interpolate(blurred, size=score.shape[-2:], mode="nearest")


def median_blur(x: Tensor, side_px: int) -> Tensor:
    """Median over the square window round each pixel, with 0 beyond the edge; float (N, 1, H, W) to the same.

    Raises ConfigError for an even side, which has no middle. `grid_selection.median_reaches` compares this median
    with a threshold without sorting.
    """
    if side_px < 1 or side_px % 2 == 0:
        raise ConfigError(f"a median of {side_px} x {side_px} pixels has no middle; give an odd number")
    if side_px == 1:
        return x
    windows = F.unfold(x, side_px, padding=side_px // 2)  # (N, side², H·W)
    middle = windows.transpose(1, 2).contiguous().median(dim=2).values
    return middle.view_as(x)
