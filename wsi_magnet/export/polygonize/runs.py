"""Parts of regions within a block: runs of equal pixels, those that touch, and what is measured of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsi_magnet.export.polygonize.corners import Bools, Codes, Ints

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Tally:
    """Measurements of parts of regions; each part is one element of every array."""

    code: Ints
    pixels: Ints
    points: Ints
    cut: Bools
    sums: Floats
    """(parts, values)."""

    @staticmethod
    def empty(n_values: int) -> Tally:
        """No parts. n_values: number of values whose sums are kept."""
        none = np.zeros(0, np.int64)
        return Tally(none, none, none, np.zeros(0, bool), np.zeros((0, n_values)))

    @staticmethod
    def joined(parts: list[Tally]) -> Tally:
        """All parts, in their order."""
        names = ("code", "pixels", "points", "cut", "sums")
        return Tally(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        return len(self.code)

    def grouped(self, group: Ints, n: int) -> Tally:
        """The sums of `n` groups of parts; group: int64, the group of each part."""
        code, cut = np.zeros(n, np.int64), np.zeros(n, bool)
        code[group] = self.code
        cut[group[self.cut]] = True
        pixels, points, *sums = (np.bincount(group, one, n) for one in (self.pixels, self.points, *self.sums.T))
        return Tally(
            code,
            pixels.astype(np.int64),
            points.astype(np.int64),
            cut,
            np.array(sums, np.float64).reshape(len(sums), n).T,
        )

    def take(self, at: Ints) -> Tally:
        """The parts of these numbers."""
        return Tally(self.code[at], self.pixels[at], self.points[at], self.cut[at], self.sums[at])


class Owners:
    """Lookup of the region part that each pixel of a block, the row above and the column on its left belong to.

    A part is at first a run of equal pixels in a row; `merge` makes one part of all runs of a block that touch.
    """

    def __init__(self, codes: Codes, first: int, above: Ints, left: Ints | None) -> None:
        """codes: uint8 (h, w); its runs of equal pixels in a row are numbered from `first` on."""
        begins = np.ones(codes.shape, bool)
        np.not_equal(codes[:, 1:], codes[:, :-1], out=begins[:, 1:])
        self.starts = np.flatnonzero(begins)
        """Index of the first pixel of each run, row after row."""
        self._first, self._width = first, codes.shape[1]
        self._part_of_run = np.arange(first, first + len(self.starts))
        self._above = above
        self._left = np.zeros(len(codes), np.int64) if left is None else left

    def __call__(self, rows: Ints, cols: Ints) -> Ints:
        """Parts, by row and column counted from the row above and the column on the left."""
        run = np.searchsorted(self.starts, (rows - 1) * self._width + cols - 1, "right") - 1
        inner = self._part_of_run[np.maximum(run, 0)]
        return np.where(rows == 0, self._above[cols], np.where(cols == 0, self._left[rows - 1], inner))

    def merge(self, joins: Ints, empty: Bools) -> tuple[Ints, int, Ints]:
        """Merge the runs that touch within the block, and the runs without a region.

        joins: int64 (2, n), pairs of parts that touch. empty: for each run. Returns the new number of each run, counted
        from 0, the number of parts, and the pairs that are left, those with parts outside the block.
        """
        n = len(self.starts)
        within = (joins >= self._first).all(axis=0)
        one, other = joins[:, within] - self._first
        background = np.flatnonzero(empty)
        pairs = np.concatenate([one, background[:-1]]), np.concatenate([other, background[1:]])
        count, number = components(n, np.stack(pairs))
        self._part_of_run = number + self._first
        outside = joins[:, ~within]
        inner = outside >= self._first
        outside[inner] = self._part_of_run[outside[inner] - self._first]
        return number, count, np.unique(outside, axis=1)


def components(n: int, joins: Ints) -> tuple[int, Ints]:
    """Number of groups of `n` parts that are joined by pairs, int64 (2, m), and the group of each."""
    graph = coo_array((np.ones(joins.shape[1], bool), tuple(joins)), shape=(n, n))
    count, group = connected_components(graph, directed=False)
    return count, group.astype(np.int64)


def joins_of(codes: Codes, owners: Owners) -> Ints:
    """Pairs of parts that touch within a block or at its upper or left border, int64 (2, n); some occur repeatedly."""
    inner = codes[1:, 1:]
    first = np.ones((codes.shape[0], inner.shape[1]), bool)
    np.not_equal(codes[:, 2:], codes[:, 1:-1], out=first[:, 1:])
    touching = (inner == codes[:-1, 1:]) & (inner > 0) & (first[1:] | first[:-1])
    rows, cols = np.divmod(np.flatnonzero(touching), inner.shape[1])
    side = np.flatnonzero((codes[1:, 0] == inner[:, 0]) & (inner[:, 0] > 0)) + 1
    upper, lower = owners(rows, cols + 1), owners(rows + 1, cols + 1)
    left, right = owners(side, np.zeros_like(side)), owners(side, np.ones_like(side))
    return np.stack([np.concatenate([upper, left]), np.concatenate([lower, right])])
