"""How much coarser a stored level really is, where the file gives nothing but its size in whole pixels.

A level of 172 rows under one of 345 was made in one of two ways. Either every 2 x 2 pixels became one and the last row
was dropped (or padded, for 173): exactly 2. Or the picture was resized to 172 rows: 345 / 172. Both are found in real
slides, and they differ by up to a level pixel at the far edge. OpenSlide takes 345 / 172, and the mean over both axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

from wsi_magnet.geometry import Size


def level_downsamples(sizes: Sequence[Size], stated: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Downsample (x, y) of each level.

    sizes: of the levels, finest first; stated: OpenSlide's downsamples. What a format states itself is taken as it is;
    what OpenSlide made up from the sizes is replaced by the middle of what the two ways of making a level would give,
    so that the error is below half a pixel of the level everywhere, whichever way it was.
    """
    return tuple(_of_level(sizes[0], size, given) for size, given in zip(sizes, stated, strict=True))


def _of_level(full: Size, size: Size, stated: float) -> tuple[float, float]:
    stretched = full.width / size.width, full.height / size.height
    if abs(stated - sum(stretched) / 2) > 1e-6 * stated:
        return stated, stated
    whole = _whole_factor(full, size, stated)
    return stretched if whole is None else ((whole + stretched[0]) / 2, (whole + stretched[1]) / 2)


def _whole_factor(full: Size, size: Size, stated: float) -> int | None:
    """The whole number by which both axes were divided and then rounded, up or down; None where there is none."""
    for factor in (2 ** round(log2(stated)), round(stated)):
        if all(abs(factor * b - a) < factor for a, b in zip(full.wh, size.wh, strict=True)):
            return int(factor)
    return None
