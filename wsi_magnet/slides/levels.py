"""How much coarser a stored level really is, where the file gives nothing but its size in whole pixels.

A level of 172 rows under one of 345 was made in one of two ways. Either every 2 x 2 pixels became one and the last row
was dropped (or padded, for 173): exactly 2. Or the picture was resized to 172 rows: 345 / 172. Real slides come both
ways, and these differ by up to a level pixel at the far edge. OpenSlide takes 345 / 172, and the mean over both axes.
Which it was is seen in the pixels: the finer level is shrunk in both ways and held against the coarser.
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
"""As `SlideReader.read_level`."""

NEGLIGIBLE_PX = 0.05
"""Ways that differ by less at the far edge, in pixels of the level, need not be told apart."""

CLEARLY = 0.95
"""The better way must fit this much better than the other, in squared differences; over glass neither does."""

PROBE_PX = 128
"""Side of the squares of the level that are compared."""

PROBES_X, PROBES_Y = (0.6, 0.8, 1.0), (0.25, 0.6, 1.0)
"""Where they lie: in the far part, where the ways differ, and not only at the edge, where slides show glass."""


def possible_downsamples(full: Size, size: Size, stated: float) -> tuple[XY, ...]:
    """One or two possible downsamples (x, y) of a level.

    full: size of level 0; stated: OpenSlide's downsample, which is taken as it is where the format gave it.
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

    Where two are possible and the pixels do not tell which, it is the middle of the two: less than half a pixel of the
    level off, anywhere, whichever is true.
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
    """The same place in a level and in the next finer one."""

    coarse: Image
    coarse_corner_xy: XY
    fine: Image
    fine_corner_xy: XY
    fine_downsample_xy: XY

    def misfit(self, downsample_xy: XY) -> float:
        """Squared differences if the level's downsample is that, summed."""
        edges_x, edges_y = (self._in_fine(axis, downsample_xy[axis]) for axis in (0, 1))
        box = edges_x[0], edges_y[0], edges_x[1], edges_y[1]
        size = self.coarse.shape[1], self.coarse.shape[0]
        shrunk = np.asarray(Pillow.fromarray(self.fine).resize(size, Pillow.Resampling.BILINEAR, box=box))
        return float(((shrunk.astype(np.float64) - self.coarse) ** 2).sum())

    def _in_fine(self, axis: int, downsample: float) -> XY:
        """Where the coarse pixels begin and end in the fine ones."""
        length = self.coarse.shape[1 - axis]
        edges = (self.coarse_corner_xy[axis], self.coarse_corner_xy[axis] + length)
        first, last = (e * downsample / self.fine_downsample_xy[axis] - self.fine_corner_xy[axis] for e in edges)
        return max(first, 0.0), min(last, float(self.fine.shape[1 - axis]))


def _probes(index: int, size: Size, fine_xy: XY, fine_size: Size, read_level: ReadLevel) -> Iterator[_Probe]:
    """Probes of level `index`; what cannot be read is left out."""
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
