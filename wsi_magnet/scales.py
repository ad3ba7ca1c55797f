"""The ladder of scales at which a slide is segmented, and the position of each scale's pixel grid on level 0.

A scale's grid starts at the upper left corner of the canvas (the slide's bounds, or all of level 0). Its pixel (x, y)
covers level-0 pixels [x * d, (x + 1) * d) x [y * d, (y + 1) * d), d a float: positions are computed from the grid every
time, never accumulated, so nothing drifts. Neighbouring scales differ by exactly 2, so four pixels of one are exactly
one pixel of the coarser one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isfinite
from numbers import Real
from typing import Any

from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box, FloatBox, Size

UPSAMPLING_TOLERANCE = 1.25
"""Factor by which a scale may be finer than the slide's pixels: a scale of 0.25 suits a slide of 0.2528 or 0.263, and
not one of 0.5."""

MOST_UPSAMPLING = 2.0
"""Factor by which a slide's level-0 pixels may be coarser than the coarsest scale, one step of the ladder. A coarser
slide is refused: no scale shows the detail on which the networks were trained."""

MPP_RANGE = (0.01, 1000.0)
"""Range of a scale, in microns per pixel: from finer than light resolves to a slide in a few pixels."""

LEVEL_TOLERANCE = 1.01
"""Factor by which a level may be coarser than a scale and still has its detail: real slides have levels of 4.0008. With
1.02 a scale of 15.82 would be read from a level of 16, at a sixteenth of the cost, but levels often lack their last row
and column, and the edge would be off by 0.6 pixels."""


@dataclass(frozen=True, slots=True)
class Scale:
    """One step of the ladder."""

    index: int
    """0 = coarsest."""
    mpp: float
    """Microns per pixel, the same in x and y."""
    downsample_xy: tuple[float, float]
    """Level-0 pixels per pixel of this scale; the two differ where the slide's pixels are not square."""
    size: Size
    """Extent of the grid: the last column and row may reach beyond the canvas by less than a pixel."""

    @property
    def grid(self) -> Box:
        """All pixels of the scale."""
        return Box.of(self.size)

    def level0(self, box: Box) -> FloatBox:
        """Convert a box of this scale to level-0 pixels, counted from the canvas's corner."""
        return FloatBox(box.x0, box.y0, box.x1, box.y1).scale(*self.downsample_xy)


@dataclass(frozen=True, slots=True)
class Ladder:
    """Scales of one slide, coarse to fine, and the scales of the bundle that are left out."""

    scales: tuple[Scale, ...]
    left_out_mpp: tuple[float, ...]
    """Scales of the bundle finer than the slide's own pixels."""
    upsampled: bool
    """True if even the coarsest scale is finer than the slide's pixels, by up to `MOST_UPSAMPLING`: it is kept, but its
    mask is a guess."""

    def __len__(self) -> int:
        return len(self.scales)

    @property
    def finest(self) -> Scale:
        """Scale of the finished mask."""
        return self.scales[-1]

    def ratio(self, scale: Scale) -> int:
        """Pixels of `scale` per pixel of the coarsest scale, along an axis: a power of 2."""
        return int(2**scale.index)


Rectangle = tuple[float, float, float, float]
"""Rectangle of level 0, in its pixels: x, y, width, height."""

MOST_READ_PIXELS = 1 << 28
"""Most pixels of a rectangle that is read at once; larger requests are mistakes."""


def to_rectangle(box: Box | Sequence[float]) -> Rectangle:
    """A box as (x, y, width, height). Raises ConfigError for what is no rectangle, or an empty one."""
    values: Sequence[Any] = (box.x0, box.y0, *box.size.wh) if isinstance(box, Box) else box
    try:
        x, y, width, height = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ConfigError(f"box is {box!r:.60}, not (x, y, width, height)", arguments=("box",)) from None
    if not all(map(isfinite, (x, y, width, height))) or min(width, height) <= 0:
        raise ConfigError(
            f"a box needs width and height above 0; got ({x:g}, {y:g}, {width:g}, {height:g})", arguments=("box",)
        )
    return x, y, width, height


def pixels_at(rectangle: Rectangle, mpp_xy: tuple[float, float], mpp: float | None) -> Size:
    """Size of a rectangle at a resolution, rounded, at least 1 x 1.

    mpp_xy: microns per level-0 pixel. mpp: microns per pixel; None: level 0's own pixels. Raises ConfigError for an mpp
    that is not positive, and for a rectangle with too many pixels.
    """
    if mpp is not None and not (isinstance(mpp, Real) and isfinite(mpp) and mpp > 0):
        raise ConfigError(f"mpp is {mpp!r:.60}, not a number above 0", arguments=("mpp",))
    columns, rows = (
        max(1, round(length if mpp is None else length * own / float(mpp)))
        for length, own in zip(rectangle[2:], mpp_xy, strict=True)
    )
    if columns * rows > MOST_READ_PIXELS:
        raise ConfigError(f"{columns} x {rows} pixels are too many to be read at once; read them in parts")
    return Size(columns, rows)


def check_mpps(mpps: Sequence[float]) -> tuple[float, ...]:
    """Return the scales as floats; raises ConfigError unless each is exactly half of the one before."""
    values = tuple(float(m) for m in mpps)
    if not values or not all(MPP_RANGE[0] <= m <= MPP_RANGE[1] for m in values):
        low, high = MPP_RANGE
        raise ConfigError(f"scales must be between {low:g} and {high:g} microns per pixel; got {list(values)}")
    for coarse, fine in pairwise(values):
        if abs(coarse / fine - 2) > 1e-9:
            raise ConfigError(f"scales must halve from each to the next, coarse to fine; got {coarse:g} then {fine:g}")
    return values


def build_ladder(mpps: Sequence[float], slide_mpp_xy: tuple[float, float], canvas: Size) -> Ladder:
    """Place the scales `mpps` (coarse to fine, µm/px) on a canvas of level-0 pixels with that resolution (x, y).

    The coarsest is kept also for a slide that is up to `MOST_UPSAMPLING` times coarser. Raises ConfigError for a slide
    that is coarser still, and for scales that do not halve.
    """
    values = check_mpps(mpps)
    slide_mpp = max(slide_mpp_xy)
    if slide_mpp > values[0] * MOST_UPSAMPLING * (1 + 1e-9):
        raise ConfigError(
            f"the slide's pixels are {slide_mpp:g} µm, {slide_mpp / values[0]:.3g} times as coarse as the coarsest "
            f"scale of the bundle ({values[0]:g} µm/px), and at most {MOST_UPSAMPLING:g} times can be segmented; use a "
            "finer scan or a bundle with coarser scales, or give the right mpp if the slide states a wrong one"
        )
    finest_useful = slide_mpp / UPSAMPLING_TOLERANCE
    kept = [m for m in values if m >= finest_useful] or [values[0]]
    scales = tuple(_place(index, mpp, slide_mpp_xy, canvas) for index, mpp in enumerate(kept))
    return Ladder(scales, tuple(values[len(kept) :]), upsampled=values[0] < finest_useful)


def scale_at(mpp: float, slide_mpp_xy: tuple[float, float], canvas: Size) -> Scale:
    """A single scale of any mpp, with index 0, on a canvas of level-0 pixels with that resolution (x, y)."""
    return _place(0, mpp, slide_mpp_xy, canvas)


def _place(index: int, mpp: float, slide_mpp_xy: tuple[float, float], canvas: Size) -> Scale:
    dx, dy = mpp / slide_mpp_xy[0], mpp / slide_mpp_xy[1]
    size = Size(_pixels(canvas.width, dx), _pixels(canvas.height, dy))
    return Scale(index, mpp, (dx, dy), size)


def _pixels(length: int, downsample: float) -> int:
    # 1000 / (0.5 / 0.25) may come out as 500.0000001, which is 500 pixels and no sliver of a 501st. The tolerance is
    # relative so that it halves with the grid: ceil(fine / 2) is always the coarser scale's size.
    return max(1, ceil(length / downsample * (1 - 1e-9)))


def best_level(level_downsamples: Sequence[float], downsample: float) -> int:
    """Index of the coarsest level with all the detail of a scale with that downsample.

    level_downsamples: in the slide's order, 1.0 first. Returns 0 if even level 0 is coarser than the scale.
    """
    fitting = [i for i, d in enumerate(level_downsamples) if d <= downsample * LEVEL_TOLERANCE]
    return max(fitting, key=lambda i: level_downsamples[i], default=0)
