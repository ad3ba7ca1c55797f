"""Resampling of a coarser grid's map to a finer grid: bilinear for probabilities, nearest for labels.

Both grids start at the canvas's corner. Pixel x has its centre at x + 1/2, so pixel x of the finer grid,
`ratio` coarser pixels wide, lies at (x + 1/2) * ratio - 1/2 of the coarser; beyond the outermost centres the outermost
pixels are repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_magnet.geometry import Box, Size
from wsi_magnet.scales import Scale

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_SAME_POSITION = 1e-6
"""Positions this close to a pixel's centre, in pixels, are taken to be on it: 3.9999999996 is 4."""


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """Positions of one axis's pixels on the coarser grid."""

    first: Indices
    """Source pixel before each position."""
    second: Indices
    """Source pixel after it; the same pixel for a position on a pixel or beyond the last."""
    share: Floats
    """Weight of the second pixel, 0 to 1."""


def axis(start: int, end: int, ratio: float, length: int) -> Axis:
    """Positions of pixels start to end, `ratio` source pixels wide each, on a source of `length` pixels."""
    at = np.clip((np.arange(start, end) + 0.5) * ratio - 0.5, 0, length - 1)
    at = np.where(np.abs(at - at.round()) < _SAME_POSITION, at.round(), at)
    first = np.floor(at).astype(np.int64)
    return Axis(first, np.ceil(at).astype(np.int64), (at - first).astype(np.float32))


def bilinear(source: Scale, target: Scale, box: Box, read: Callable[[Box], Floats]) -> Floats:
    """Interpolate a map to `box` on the target's grid, float32 (C, box height, box width).

    read: returns float32 (C, height, width) of a box on the source's grid.
    """
    x, y = _axes(source.size, _ratio_xy(source, target), box)
    needed = Box(int(x.first[0]), int(y.first[0]), int(x.second[-1]) + 1, int(y.second[-1]) + 1)
    pixels = read(needed)
    rows = _mix(pixels, y, needed.y0, axis_of_array=1)
    return _mix(rows, x, needed.x0, axis_of_array=2)


def nearest(
    source: Scale, target: Scale, box: Box, read: Callable[[Box], npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint8]:
    """Source pixel that contains each pixel's centre, uint8 (box height, box width)."""
    ratio_x, ratio_y = _ratio_xy(source, target)
    cols = _covering(box.x0, box.x1, ratio_x, source.size.width)
    rows = _covering(box.y0, box.y1, ratio_y, source.size.height)
    needed = Box(int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)
    return read(needed)[np.ix_(rows - needed.y0, cols - needed.x0)]


def _ratio_xy(source: Scale, target: Scale) -> tuple[float, float]:
    x, y = (fine / coarse for fine, coarse in zip(target.downsample_xy, source.downsample_xy, strict=True))
    return x, y


def _axes(size: Size, ratio_xy: tuple[float, float], box: Box) -> tuple[Axis, Axis]:
    x = axis(box.x0, box.x1, ratio_xy[0], size.width)
    return x, axis(box.y0, box.y1, ratio_xy[1], size.height)


def _mix(pixels: Floats, along: Axis, start: int, *, axis_of_array: int) -> Floats:
    first = pixels.take(along.first - start, axis=axis_of_array)
    if not along.share.any():
        return first
    second = pixels.take(along.second - start, axis=axis_of_array)
    share = along.share[:, None] if axis_of_array == 1 else along.share
    mixed: Floats = first + (second - first) * share
    return mixed


def _covering(start: int, end: int, ratio: float, length: int) -> Indices:
    within = np.floor((np.arange(start, end) + 0.5) * ratio + _SAME_POSITION).astype(np.int64)
    clipped: Indices = np.clip(within, 0, length - 1)
    return clipped
