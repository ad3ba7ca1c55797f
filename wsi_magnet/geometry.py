"""Sizes and rectangles as frozen values; the one place where (x, y) becomes (row, column)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor


@dataclass(frozen=True, slots=True)
class Size:
    """A `width` and a `height` in pixels, never negative."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 0 or self.height < 0:
            raise ValueError(f"a size cannot be negative: {self.width} x {self.height}")

    @property
    def wh(self) -> tuple[int, int]:
        """(width, height), OpenSlide's order."""
        return self.width, self.height

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width), the order of arrays."""
        return self.height, self.width

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def halve(self) -> Size:
        """Size of the grid with twice the pixel size that covers this one."""
        return Size(ceil_div(self.width, 2), ceil_div(self.height, 2))

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


@dataclass(frozen=True, slots=True)
class Box:
    """Rectangle of whole pixels on a grid, half open: x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> Size:
        """Extent; 0 for empty rectangles."""
        return Size(max(self.x1 - self.x0, 0), max(self.y1 - self.y0, 0))

    @property
    def empty(self) -> bool:
        """True if the rectangle has no pixel."""
        return self.x1 <= self.x0 or self.y1 <= self.y0

    @property
    def slices_yx(self) -> tuple[slice, slice]:
        """Index into an array (rows, columns) with the same grid and origin."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def intersect(self, other: Box) -> Box:
        """Common part of two rectangles; empty if there is none."""
        return Box(max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1))

    def contains(self, other: Box) -> bool:
        """True if no pixel of `other` lies outside."""
        return other.empty or self.intersect(other) == other

    def grow(self, margin_px: int) -> Box:
        """Rectangle with `margin_px` more pixels on each side."""
        return Box(self.x0 - margin_px, self.y0 - margin_px, self.x1 + margin_px, self.y1 + margin_px)

    def shift(self, dx: int, dy: int) -> Box:
        """Rectangle moved by whole pixels."""
        return Box(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def relative_to(self, other: Box) -> Box:
        """The same rectangle, counted from the upper left corner of `other`."""
        return self.shift(-other.x0, -other.y0)

    def halve(self) -> Box:
        """Smallest rectangle on a grid of twice the pixel size that covers this one."""
        return Box(self.x0 // 2, self.y0 // 2, -(-self.x1 // 2), -(-self.y1 // 2))

    def squares(self, side: int) -> Iterator[Box]:
        """Squares of that side that cover the rectangle, each pixel once, row by row; the last ones are smaller."""
        for y in range(self.y0, self.y1, side):
            for x in range(self.x0, self.x1, side):
                yield Box(x, y, x + side, y + side).intersect(self)

    @staticmethod
    def of(size: Size) -> Box:
        """Rectangle of a whole grid of that size."""
        return Box(0, 0, size.width, size.height)


@dataclass(frozen=True, slots=True)
class FloatBox:
    """Rectangle in float coordinates (of pixel edges, not centres): x0 <= x < x1, y0 <= y < y1."""

    x0: float
    y0: float
    x1: float
    y1: float

    def scale(self, fx: float, fy: float) -> FloatBox:
        """Rectangle with every coordinate multiplied."""
        return FloatBox(self.x0 * fx, self.y0 * fy, self.x1 * fx, self.y1 * fy)

    def shift(self, dx: float, dy: float) -> FloatBox:
        """Rectangle moved by (dx, dy)."""
        return FloatBox(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def outer(self) -> Box:
        """Smallest rectangle of whole pixels that covers this one."""
        return Box(floor(self.x0), floor(self.y0), ceil(self.x1), ceil(self.y1))


def halved_until(sizes: Sequence[Size], longest_px: int) -> tuple[Size, ...]:
    """Sizes of a pyramid's levels, finest first: those given, then halved until both sides are at most `longest_px`."""
    found = list(sizes)
    while max(found[-1].wh) > longest_px:
        found.append(found[-1].halve())
    return tuple(found)


def ceil_div(a: int, b: int) -> int:
    """Quotient of whole numbers, rounded up."""
    return -(-a // b)


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is at least `value`."""
    return ceil_div(value, multiple) * multiple
