"""Maps twice as large, bilinear, where a margin of their neighbours is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def double_inside(maps: Tensor) -> Tensor:
    """Twice as large with half-pixel centres, without the outermost row and column, which lean on what is not there.

    Float (N, C, h, w) to (N, C, 2h - 4, 2w - 4). On a processor by hand, in a fifth of the time: a pixel is three
    parts of one neighbour and one part of another, along each axis.
    """
    if maps.device.type != "cpu":
        return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]
    n, c, height, width = maps.shape
    # Columns first: writing every other one is slow, and now there are half as many rows.
    wide = maps.new_empty((n, c, height, 2 * width - 4))
    _between(maps[..., :-2], maps[..., 1:-1], maps[..., 2:], (wide[..., 0::2], wide[..., 1::2]))
    both = maps.new_empty((n, c, 2 * height - 4, 2 * width - 4))
    _between(wide[..., :-2, :], wide[..., 1:-1, :], wide[..., 2:, :], (both[..., 0::2, :], both[..., 1::2, :]))
    return both


def _between(before: Tensor, here: Tensor, after: Tensor, out: tuple[Tensor, Tensor]) -> None:
    torch.lerp(here, before, 0.25, out=out[0])
    torch.lerp(here, after, 0.25, out=out[1])
