"""Means over square windows, as the guided filters need them.

Sums of 1, 2, 4, 8, ... neighbours are made by doubling, and a window's sum is put together from them: additions grow
with the logarithm of the radius. A running sum (integral image) would need one less, but in float32 it loses the digits
of small windows far from its corner, and its rounding would let every pixel depend on all before it. Here the rounding
error is that of pairwise summation, and a pixel depends on its window alone, to the last bit. Differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor


def box_mean(maps: Tensor, radius: int) -> Tensor:
    """Mean over the (2 * radius + 1)² window round each pixel; at the border, over the pixels that are there.

    maps: float (N, K, H, W); the result has the same shape and type.
    """
    return box_sum(maps, radius) / window_sizes(maps, radius)


def box_sum(maps: Tensor, radius: int) -> Tensor:
    """Sum over the window instead; beyond the border is 0."""
    return _line_sum(_line_sum(maps, radius, -1), radius, -2)


def window_sizes(maps: Tensor, radius: int) -> Tensor:
    """Number of pixels in each window, of the type of `maps`, (1, 1, H, W)."""
    height, width = maps.shape[-2:]
    return box_sum(maps.new_ones(1, 1, height, width), radius)


def _line_sum(maps: Tensor, radius: int, axis: int) -> Tensor:
    """Sum over 2 * radius + 1 neighbours along an axis."""
    length, width = maps.shape[axis], 2 * radius + 1
    sides = (radius, radius) if axis == -1 else (0, 0, radius, radius)
    sums = torch.nn.functional.pad(maps, sides)  # sums[i]: of `count` values from i on
    total, start, count = torch.zeros_like(maps), 0, 1
    while count <= width:
        if width & count:
            total = total + sums.narrow(axis, start, length)
            start += count
        pairs = sums.shape[axis] - count
        if 2 * count <= width:
            sums = sums.narrow(axis, 0, pairs) + sums.narrow(axis, count, pairs)
        count *= 2
    return total
