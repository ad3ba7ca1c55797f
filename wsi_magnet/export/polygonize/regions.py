"""Connected regions of a label image, streamed: one pass over the pixels from top to bottom, in bounded memory.

The image is read in blocks; a row of blocks is a strip. Of a block only the corners and the runs of equal pixels are
kept until its strip is linked; of a strip only what continues below it: open outlines, and a few numbers for each
region. A region is yielded as soon as it is complete. A region that grows beyond `open_points` is cut along a strip's
lower edge, so that the bound holds for a stroma with ten thousand holes too.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsi_magnet.config import CHUNK_PX
from wsi_magnet.export.polygonize.corners import Bools, Codes, Corners, Ints, PackedCorners, find_corners
from wsi_magnet.export.polygonize.rings import Linker, Points, Ring
from wsi_magnet.export.polygonize.runs import Floats, Owners, Tally, components, joins_of
from wsi_magnet.geometry import Box, Size

CUT = 128
"""Added to the class of a pixel above a cut, so that it differs from the one below; classes are below it."""

BLOCK_PX = CHUNK_PX
"""Side of a block: a chunk of the store."""

_PREFETCH = 12
"""Number of prefetched blocks."""


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """Pixels of one block of the image."""

    codes: Codes
    """uint8 (h, w): region classes, 1..127; 0 = no region."""
    values: npt.NDArray[np.uint8] | None = None
    """uint8 (n, h, w): values to be summed over each region."""


@dataclass(frozen=True, eq=False, slots=True)
class LabelRegion:
    """A 4-connected region of one class."""

    code: int
    rings: tuple[Points, ...]
    """Its outline and those of its holes, in no order; none crosses or touches itself, and two of them may touch in
    points only."""
    pixels: int
    sums: Floats
    """float64 (n,): sum of each of the blocks' values over the region's pixels."""
    cut: bool
    """True for a part of a region that was cut."""
    strip: int
    """Number of the strip that completes it."""

    @property
    def first_xy(self) -> tuple[int, int]:
        """Upper left corner of its first pixel, row by row: no other region has it, and it does not depend on the
        points that a simplified outline keeps.
        """
        points = np.concatenate(self.rings)
        top = points[:, 1].min()
        return int(points[points[:, 1] == top, 0].min()), int(top)


Keep = Callable[[Codes, Corners, tuple[int, int]], Bools]
"""Chooses the corners that a simplified outline keeps, from a block's codes, its corners, and the x and y of its first
pixel."""


@dataclass(frozen=True, eq=False, slots=True)
class Tracing:
    """An image to trace, with the options of tracing."""

    size: Size
    read: Callable[[Box], Block | None]
    """Pixels of a box inside the image; None where it holds no region at all."""
    n_values: int = 0
    keep: Keep | None = None
    """Chooses the points of simplified outlines; None: outlines are exact."""
    open_points: int = 100_000
    """A region with more corners is cut at the end of a strip."""
    side_px: int = BLOCK_PX
    """Side of a block."""


def trace(tracing: Tracing) -> Iterator[LabelRegion]:
    """All regions, each as soon as it is complete; those of one strip in the order of their first pixels."""
    width, height = tracing.size.wh
    tracer, side = _Tracer(tracing), tracing.side_px
    # One column and one row beyond the image: outlines close at its edges as anywhere else.
    boxes = (
        Box(x, y, min(x + side, width + 1), min(y + side, height + 1))
        for y in range(0, height + 1, side)
        for x in range(0, width + 1, side)
    )
    for box, block in _prefetched(tracing, boxes):
        if not box.x0:
            tracer.begin_strip()
        tracer.add(box, block)
        if box.x1 > width:
            yield from tracer.end_strip()


def _prefetched(tracing: Tracing, boxes: Iterator[Box]) -> Iterator[tuple[Box, Block | None]]:
    """Each box with its pixels, prefetched by another thread."""
    image = Box.of(tracing.size)
    with ThreadPoolExecutor(1, "read") as pool:
        waiting: deque[tuple[Box, Future[Block | None]]] = deque()
        try:
            for box in boxes:
                inside = box.intersect(image)
                waiting.append((box, pool.submit(lambda b: None if b.empty else tracing.read(b), inside)))
                if len(waiting) > _PREFETCH:
                    first, pixels = waiting.popleft()
                    yield first, pixels.result()
            for first, pixels in waiting:
                yield first, pixels.result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Tracer:
    """State of tracing an image. A pixel's owner is the part of a region that it belongs to; in each strip, parts are
    renumbered: first the regions that continue from above, then the runs of equal pixels of each block.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._linker = Linker()
        self._tally = Tally.empty(tracing.n_values)
        self._rings: list[list[Points]] = []
        self._strip = -1
        # These begin one column left of the image.
        self._below = np.zeros(tracing.size.width + 2, np.uint8)
        self._below_owner = np.zeros(tracing.size.width + 2, np.int64)

    def begin_strip(self) -> None:
        self._strip += 1
        self._above, self._above_owner = self._below, self._below_owner
        self._below, self._below_owner = np.zeros_like(self._above), np.zeros_like(self._above_owner)
        self._tallies, self._known = [self._tally], len(self._tally)
        self._joins: list[Ints] = [np.zeros((2, 0), np.int64)]
        self._corners: list[PackedCorners] = []
        self._left: Codes | None = None
        self._left_owner: Ints | None = None

    def add(self, box: Box, block: Block | None) -> None:
        """Add the next block of the strip."""
        columns = slice(box.x0, box.x1 + 1)
        if block is None and self._left is None and not self._above[columns].any():
            return
        codes = np.zeros((box.size.height + 1, box.size.width + 1), np.uint8)
        codes[0] = self._above[columns]
        if self._left is not None:
            codes[1:, 0] = self._left
        if block is not None:
            codes[1 : 1 + block.codes.shape[0], 1 : 1 + block.codes.shape[1]] = block.codes
        owners = Owners(codes[1:, 1:], self._known, self._above_owner[columns], self._left_owner)
        runs = self._tally_of(codes, owners, block)
        number, count, joins = owners.merge(joins_of(codes, owners), runs.code == 0)
        self._tallies.append(runs.grouped(number, count))
        self._joins.append(joins)
        self._known += count
        self._find_corners(codes, owners, (box.x0, box.y0))
        right, bottom = codes[1:, -1], np.arange(1, codes.shape[1])
        self._below[columns][1:] = codes[-1, 1:]
        self._below_owner[columns][1:] = owners(np.full_like(bottom, box.size.height), bottom)
        rows = np.arange(1, codes.shape[0])
        self._left = right if right.any() else None
        self._left_owner = owners(rows, np.full_like(rows, box.size.width))

    def _tally_of(self, codes: Codes, owners: Owners, block: Block | None) -> Tally:
        """Measurements of each run of equal pixels of a block."""
        inner, starts = codes[1:, 1:], owners.starts
        below_cut = np.flatnonzero((inner[0] > 0) & (codes[0, 1:] == inner[0] + CUT)) + 1
        cut = np.zeros(len(starts), bool)
        cut[owners(np.ones_like(below_cut), below_cut) - self._known] = True
        sums = np.zeros((len(starts), self._tracing.n_values))
        if block is not None and block.values is not None:
            padded = np.zeros((len(block.values), *inner.shape), np.uint8)
            padded[:, : block.codes.shape[0], : block.codes.shape[1]] = block.values
            sums = np.add.reduceat(padded.reshape(len(padded), -1), starts, axis=1, dtype=np.float64).T
        code = inner.ravel()[starts].astype(np.int64)
        return Tally(code, np.diff(starts, append=inner.size), np.zeros(len(starts), np.int64), cut, sums)

    def _find_corners(self, codes: Codes, owners: Owners, origin_xy: tuple[int, int]) -> None:
        keep = self._tracing.keep
        corners = find_corners(codes, owners, origin_xy, nodes=keep is not None)
        if keep is not None and len(corners):
            corners = replace(corners, kept=keep(codes[1:, 1:], corners, origin_xy))
        self._corners.append(PackedCorners.of(corners))

    def end_strip(self) -> Iterator[LabelRegion]:
        """Link the strip, and yield the regions that are complete."""
        n, group = components(self._known, np.concatenate(self._joins, axis=1))
        tally = Tally.joined(self._tallies).grouped(group, n)
        points = sum((np.bincount(group[block.owner], minlength=n) for block in self._corners), tally.points)
        tally = replace(tally, points=points)
        rings: dict[int, list[Points]] = defaultdict(list)
        for number, earlier in enumerate(self._rings):
            rings[int(group[number])] += earlier
        for ring in self._linked(group):
            rings[ring.owner].append(ring.points)
        still = np.zeros(n, bool)
        still[group[self._below_owner[self._below > 0]]] = True
        self._prepare_next(tally, group, rings, np.flatnonzero(still))
        for number in np.flatnonzero((tally.code > 0) & ~still).tolist():
            parts = tuple(part for ring in rings[number] for part in split_ring(ring))
            code, pixels, cut = int(tally.code[number]), int(tally.pixels[number]), bool(tally.cut[number])
            yield LabelRegion(code, parts, pixels, tally.sums[number], cut, self._strip)

    def _linked(self, group: Ints) -> Iterator[Ring]:
        """Link the corners of the strip, a few rows at a time: that takes far more memory than to keep them."""
        blocks, self._corners = self._corners, []
        for first, end in _batches(blocks):
            corners = Corners.joined([block.rows(first, end) for block in blocks])
            yield from self._linker.link(replace(corners, owner=group[corners.owner]))

    def _prepare_next(self, tally: Tally, group: Ints, rings: Mapping[int, list[Points]], still: Ints) -> None:
        """Keep what the next strip needs of this one; still: the groups that continue below it."""
        new = np.zeros(len(tally), np.int64)
        new[still] = np.arange(len(still))
        filled = self._below > 0
        self._below_owner[filled] = new[group[self._below_owner[filled]]]
        self._below_owner[~filled] = 0
        self._tally, self._rings = tally.take(still), [rings[number] for number in still.tolist()]
        large = self._tally.points > self._tracing.open_points
        if large.any():
            self._below[filled & large[self._below_owner]] += CUT
            self._tally = replace(self._tally, cut=self._tally.cut | large)


_TOGETHER = 100_000
"""Number of corners that are linked together."""


def _batches(blocks: list[PackedCorners]) -> Iterator[tuple[int, int]]:
    """First row and end of batches of whole rows that have about `_TOGETHER` corners each, from top to bottom."""
    rows = np.sort(np.concatenate([block.y for block in blocks] or [np.zeros(0, np.int32)]))
    first = 0
    while first < len(rows):
        last = rows[min(first + _TOGETHER, len(rows)) - 1]
        yield int(rows[first]), int(last) + 1
        first = int(np.searchsorted(rows, last, "right"))


def split_ring(points: Points) -> list[Points]:
    """Split a ring that visits a point twice into rings that visit each once: an outline, and holes that touch it."""
    keys = (points[:, 0].astype(np.int64) << 32) + points[:, 1]
    if len(np.unique(keys)) == len(keys):
        return [points]
    found: list[Points] = []
    path: list[int] = []
    index_of: dict[int, int] = {}
    for number, key in enumerate(keys.tolist()):
        if key in index_of:
            begin = index_of[key]
            loop, path = path[begin:], path[:begin]
            for visited in loop:
                del index_of[int(keys[visited])]
            found.append(points[loop])
        index_of[key] = len(path)
        path.append(number)
    return [*found, points[path]]
