"""The corners of the outlines of a label image, found from the four pixels that meet at each grid point.

Outlines run along pixel edges, with their region on the right hand (y grows downwards): along upper edges to the right,
along right edges down, along lower edges to the left, along left edges up. Regions are 4-connected, so where only two
diagonal pixels of four are alike each has its own corner. A corner therefore depends on four pixels alone, and each
straight piece between two corners lies on one side of one line of the pixel grid: sorted along their lines, corners
form pairs. No outline has to be followed, and none has to lie in one piece of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]
"""Classes of regions, one more row above and one more column on the left than there are pixels; 0 = no region."""

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

OwnerOf = Callable[[Ints, Ints], Ints]
"""Owner of each pixel, from rows and columns: the part of a region that it belongs to."""

ABOVE, BELOW = 1, 0
"""Side of a horizontal line on which the region lies: ABOVE at its lower edges, BELOW at its upper edges."""

WEST, EAST = 0, 1
"""Side of a vertical line on which the region lies: WEST at its right edges, EAST at its left edges."""

_KINDS = (
    # pixel of the region, its row and column among the four; horizontal side; vertical side; leaves horizontally
    ("d", (1, 1), BELOW, EAST, True),
    ("c", (1, 0), BELOW, WEST, False),
    ("a", (0, 0), ABOVE, WEST, True),
    ("b", (0, 1), ABOVE, EAST, False),
)
"""Corners round one pixel of the four a b / c d, whose neighbours on both sides differ from it."""

_REFLEX = (
    # the pixel that differs; one that does not; horizontal side; vertical side; leaves horizontally
    ("a", (1, 1), BELOW, EAST, False),
    ("b", (1, 0), BELOW, WEST, True),
    ("d", (0, 0), ABOVE, WEST, False),
    ("c", (0, 1), ABOVE, EAST, True),
)
"""Corners round the one pixel of the four that does not belong to the region."""


@dataclass(frozen=True, slots=True)
class Corners:
    """Corners, and on request the points on straight pieces at which other outlines end."""

    x: Ints
    y: Ints
    """Lines of the pixel grid: (x, y) is the upper left corner of pixel (x, y)."""
    owner: Ints
    """Owner of the outline, from `owner_of`."""
    kind: Ints
    """0..7: one of the eight corners; 8..11: a point on a straight piece, not a corner."""
    kept: Bools
    """False where a simplified outline leaves it out."""

    def __len__(self) -> int:
        return len(self.x)

    @staticmethod
    def joined(parts: list[Corners]) -> Corners:
        """The parts as one, in their order."""
        names = ("x", "y", "owner", "kind", "kept")
        if not parts:
            empty = np.zeros(0, np.int64)
            return Corners(empty, empty, empty, empty, np.zeros(0, bool))
        return Corners(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, eq=False, slots=True)
class PackedCorners:
    """Corners of a block, sorted by row, in a third of the memory."""

    x: npt.NDArray[np.int32]
    y: npt.NDArray[np.int32]
    owner: npt.NDArray[np.int32]
    kind: npt.NDArray[np.int8]
    kept: Bools

    @staticmethod
    def of(corners: Corners) -> PackedCorners:
        """The same corners."""
        order = np.argsort(corners.y, kind="stable")
        x, y, owner = (one[order].astype(np.int32) for one in (corners.x, corners.y, corners.owner))
        return PackedCorners(x, y, owner, corners.kind[order].astype(np.int8), corners.kept[order])

    def rows(self, first: int, end: int) -> Corners:
        """Those of a range of rows."""
        part = slice(*np.searchsorted(self.y, [first, end]).tolist())
        x, y, owner, kind = (one[part].astype(np.int64) for one in (self.x, self.y, self.owner, self.kind))
        return Corners(x, y, owner, kind, self.kept[part])


HORIZONTAL_SIDE = np.array([k[2] for k in (*_KINDS, *_REFLEX)] + [ABOVE, BELOW, -1, -1])
"""By kind: side of its horizontal line on which the region lies; -1 without a horizontal piece."""

VERTICAL_SIDE = np.array([k[3] for k in (*_KINDS, *_REFLEX)] + [-1, -1, WEST, EAST])
"""By kind: side of its vertical line on which the region lies; -1 without a vertical piece."""

LEAVES_HORIZONTALLY = np.array([k[4] for k in (*_KINDS, *_REFLEX)] + [False] * 4)
"""By kind, for corners: True where the outline arrives vertically and leaves horizontally, False the other way."""

STRAIGHT = 8
"""First kind that is a point on a straight piece."""

_PIXEL = np.array([k[1] for k in (*_KINDS, *_REFLEX)] + [(0, 0), (1, 0), (0, 0), (0, 1)])
"""By kind: row and column, among the four, of a pixel of the region."""


def find_corners(codes: Codes, owner_of: OwnerOf, origin_xy: tuple[int, int], *, nodes: bool = False) -> Corners:
    """The corners that lie at the upper left corners of a block's pixels.

    codes: uint8 (h + 1, w + 1). owner_of: takes rows and columns of `codes`. origin_xy: position of the block's first
    pixel, which is the second of each row and column. nodes: also find the points on straight pieces at which other
    outlines end, and at which a straight piece enters the block through its upper or left border.
    """
    along, across = codes[:, :-1] == codes[:, 1:], codes[:-1] == codes[1:]
    plain = (along[:-1] & along[1:]) | (across[:, :-1] & across[:, 1:])
    if nodes:
        plain[0] &= along[0] & along[1]
        plain[:, 0] &= across[:, 0] & across[:, 1]
    rows, cols = np.divmod(np.flatnonzero(~plain), plain.shape[1])
    a, b, c, d = (codes[rows + r, cols + q] for r, q in ((0, 0), (0, 1), (1, 0), (1, 1)))
    where = [*_round_one(a, b, c, d), *_round_three(a, b, c, d)]
    if nodes:
        where += _straight(a, b, c, d, rows == 0, cols == 0)
    kind, at = np.nonzero(where) if len(rows) else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    y, x = rows[at], cols[at]
    owner = owner_of(y + _PIXEL[kind, 0], x + _PIXEL[kind, 1])
    return Corners(x + origin_xy[0], y + origin_xy[1], owner, kind, np.ones(len(x), bool))


def _round_one(a: Codes, b: Codes, c: Codes, d: Codes) -> list[Bools]:
    """True where an outline goes round d, c, a, b alone."""
    right, down, left, up = c != d, b != d, a != c, a != b
    return [right & down & (d > 0), left & right & (c > 0), left & up & (a > 0), up & down & (b > 0)]


def _round_three(a: Codes, b: Codes, c: Codes, d: Codes) -> list[Bools]:
    """True where an outline goes round all but a, b, d, c."""
    ab, ac, bd, cd = a == b, a == c, b == d, c == d
    return [bd & cd & ~ab & (d > 0), ac & cd & ~ab & (c > 0), ab & ac & ~bd & (a > 0), ab & bd & ~ac & (b > 0)]


def _straight(a: Codes, b: Codes, c: Codes, d: Codes, top: Bools, left: Bools) -> list[Bools]:
    """True where the outline of a region above, below, west, east is straight at a point where another outline ends."""
    ab, ac, bd, cd = a == b, a == c, b == d, c == d
    level, upright = ~ac & ~bd, ~ab & ~cd
    return [
        ab & level & (~cd | left) & (a > 0),
        cd & level & (~ab | left) & (c > 0),
        ac & upright & (~bd | top) & (a > 0),
        bd & upright & (~ac | top) & (b > 0),
    ]
