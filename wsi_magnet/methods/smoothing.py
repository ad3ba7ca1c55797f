"""A Gaussian of the distance between pixels, symmetrically normalised, by matrices.

The kernel is a product of one along the rows and one along the columns, and so is its normalisation. Each is a matrix
with a band of entries round its diagonal, multiplied in blocks of rows: exact to float32, and as fast as a processor
multiplies matrices. C: channels, H, W: size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 64
"""Rows of a matrix that are multiplied at once."""

CUT = 6.0
"""Standard deviations beyond which the Gaussian, below 2e-8 there, counts as 0."""

Band = list[tuple[slice, Tensor]]
"""Blocks of rows of a band matrix: the columns in which they are not 0, and their entries there."""


class Smoothing:
    """The kernel n_i k(i, j) n_j, where k = exp(-|i - j|² / 2 sigma²) and n = 1 / √(sum of k over j in the map)."""

    def __init__(self, size_hw: tuple[int, int], sigma_px: float, device: torch.device):
        self._vertical, self._horizontal = (_band(length, sigma_px, device) for length in size_hw)

    def filter(self, maps: Tensor) -> Tensor:
        """Sums of the maps weighed by the kernel. float32 (C, H, W), as the result."""
        channels, height, width = maps.shape
        rows = torch.cat(
            [torch.bmm(block.expand(channels, -1, -1), maps[:, part]) for part, block in self._vertical], dim=1
        )
        lines = rows.view(channels * height, width)
        return torch.cat([lines[:, part] @ block.T for part, block in self._horizontal], dim=1).view(maps.shape)


def _band(length: int, sigma_px: float, device: torch.device) -> Band:
    """The normalised kernel along a line of that many pixels."""
    places = torch.arange(length, dtype=torch.float64)
    matrix = torch.exp(-((places[:, None] - places) ** 2) / (2 * sigma_px**2))
    scale = matrix.sum(dim=1).rsqrt()
    matrix = (scale[:, None] * matrix * scale).float().to(device)
    radius = math.ceil(CUT * sigma_px)
    blocks = [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
    parts = [slice(max(0, start - radius), min(stop + radius, length)) for start, stop in blocks]
    return [(part, matrix[start:stop, part].contiguous()) for (start, stop), part in zip(blocks, parts, strict=True)]
