"""Exact downsample of stored levels, for formats that give nothing but a level's size in whole pixels.

A level of 172 rows under one of 345 was made in one of two ways. Either every 2 x 2 pixels became one and the last row
was dropped (or padded, for 173): the downsample is exactly 2. Or the picture was resized to 172 rows: it is 345 / 172.
Both occur in real slides, and they differ by up to a level pixel at the far edge. OpenSlide takes 345 / 172, and the
mean over both axes. The pixels decide: the finer level is shrunk in both ways and compared with the coarser one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from math import log2

import numpy as np
from PIL import Image as Pillow

from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import Box, FloatBox, Size
from wsi_magnet.slides.types import Image

XY = tuple[float, float]
ReadLevel = Callable[[int, Box], tuple[Image, XY]]
"""Function like `SlideReader.read_level`."""

NEGLIGIBLE_PX = 0.05
"""Difference at the far edge, in level pixels, below which two downsamples need not be distinguished."""

CLEARLY = 0.95
"""Ratio of squared differences below which the better downsample is accepted; on glass neither is better."""

PROBE_PX = 128
"""Side of the compared squares, in pixels of the level."""

PROBES_X, PROBES_Y = (0.6, 0.8, 1.0), (0.25, 0.6, 1.0)
"""Positions of these squares, as fractions of the level: in the far part, where the downsamples differ, and not only at
the edge, where slides show glass."""


def possible_downsamples(full: Size, size: Size, stated: float) -> tuple[XY, ...]:
    """One or two possible downsamples (x, y) of a level.

    full: size of level 0. stated: OpenSlide's downsample; the only one where the format gave it.
    """
    resized = full.width / size.width, full.height / size.height
    if abs(stated - sum(resized) / 2) > 1e-6 * stated:
        return ((stated, stated),)
    for whole in (2 ** round(log2(stated)), round(stated)):
        rest = max(abs(whole * b - a) for a, b in zip(full.wh, size.wh, strict=True))
        if rest < whole:
            reduced = float(whole), float(whole)
            return (reduced,) if rest / whole < NEGLIGIBLE_PX else (reduced, resized)
    return (resized,)


def settle_downsamples(sizes: Sequence[Size], stated: Sequence[float], read_level: ReadLevel) -> tuple[XY, ...]:
    """Downsample (x, y) of each level, finest first.

    Where two are possible and the pixels do not decide, it is their mean, which is off by less than half a level pixel
    anywhere, whichever is true.
    """
    settled: list[XY] = []
    for index, (size, downsample) in enumerate(zip(sizes, stated, strict=True)):
        possible = possible_downsamples(sizes[0], size, downsample)
        if len(possible) == 1:
            settled.append(possible[0])
            continue
        probes = list(_probes(index, size, settled[-1], sizes[index - 1], read_level))
        settled.append(_better(possible, [sum(probe.misfit(way) for probe in probes) for way in possible]))
    return tuple(settled)


def _better(possible: Sequence[XY], misfits: Sequence[float]) -> XY:
    (a, b), (misfit_a, misfit_b) = possible, misfits
    if min(misfits) < CLEARLY * max(misfits):
        return a if misfit_a < misfit_b else b
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2


@dataclass(frozen=True, slots=True)
class _Probe:
    """Pixels of the same place in a level and in the next finer one."""

    coarse: Image
    coarse_corner_xy: XY
    fine: Image
    fine_corner_xy: XY
    fine_downsample_xy: XY

    def misfit(self, downsample_xy: XY) -> float:
        """Sum of squared differences for a downsample of the level."""
        edges_x, edges_y = (self._in_fine(axis, downsample_xy[axis]) for axis in (0, 1))
        box = edges_x[0], edges_y[0], edges_x[1], edges_y[1]
        size = self.coarse.shape[1], self.coarse.shape[0]
        shrunk = np.asarray(Pillow.fromarray(self.fine).resize(size, Pillow.Resampling.BILINEAR, box=box))
        return float(((shrunk.astype(np.float64) - self.coarse) ** 2).sum())

    def _in_fine(self, axis: int, downsample: float) -> XY:
        """First and last edge of the coarse pixels, in fine pixels, along an axis."""
        length = self.coarse.shape[1 - axis]
        edges = (self.coarse_corner_xy[axis], self.coarse_corner_xy[axis] + length)
        first, last = (e * downsample / self.fine_downsample_xy[axis] - self.fine_corner_xy[axis] for e in edges)
        return max(first, 0.0), min(last, float(self.fine.shape[1 - axis]))


def _probes(index: int, size: Size, fine_xy: XY, fine_size: Size, read_level: ReadLevel) -> Iterator[_Probe]:
    """Probes of level `index`, without those that cannot be read."""
    ratio_x, ratio_y = fine_size.width / size.width, fine_size.height / size.height
    for x, y in product(PROBES_X, PROBES_Y):
        x0, y0 = round((size.width - PROBE_PX - 2) * x), round((size.height - PROBE_PX - 2) * y)
        coarse = Box(x0, y0, x0 + PROBE_PX, y0 + PROBE_PX).intersect(Box.of(size))
        wide = FloatBox(coarse.x0 - 2, coarse.y0 - 2, coarse.x1 + 2, coarse.y1 + 2)
        fine = wide.scale(ratio_x, ratio_y).outer().intersect(Box.of(fine_size))
        if coarse.empty:
            continue
        with suppress(SlideReadError):
            yield _Probe(*read_level(index, coarse), *read_level(index - 1, fine), fine_xy)
