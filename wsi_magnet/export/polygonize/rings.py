"""Rings linked from corners, strip after strip; outlines that are open at a strip's lower edge continue in the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from wsi_magnet.export.polygonize.corners import (
    BELOW,
    EAST,
    HORIZONTAL_SIDE,
    LEAVES_HORIZONTALLY,
    STRAIGHT,
    VERTICAL_SIDE,
    WEST,
    Bools,
    Corners,
    Ints,
)

Points = npt.NDArray[np.int32]
"""int32 (n, 3): x, y on the pixel grid's lines, and 1 where a simplified outline keeps the point, else 0."""


_PIECES = 32
"""Most pieces of an open outline; more are joined, because each is an object of its own."""


@dataclass(frozen=True, eq=False, slots=True)
class Ring:
    """A closed outline; the first point is not repeated at the end."""

    owner: int
    points: Points


@dataclass(frozen=True, eq=False, slots=True)
class _Chain:
    """An open outline: both its first and its last point continue below the strip."""

    head_x: int
    tail_x: int
    pieces: tuple[Points, ...]


@dataclass(frozen=True, eq=False, slots=True)
class _Ends:
    """Ends of the straight pieces along lines of one direction."""

    node: Ints
    line: Ints
    side: Ints
    position: Ints
    """Position along the line."""
    begins: Bools
    """True where the piece extends to larger positions."""
    leaves: Bools
    """True where the outline leaves its node by this end."""


class Linker:
    """Links the corners of strips, given from top to bottom."""

    def __init__(self) -> None:
        self._open: list[_Chain] = []

    def link(self, corners: Corners) -> list[Ring]:
        """The rings that these corners close."""
        n = len(corners)
        following = np.full(n + len(self._open), -1)
        across, down = _sorted(_horizontal(corners)), _sorted(self._vertical(corners))
        for ends in (across, down):
            begin = _pairs(ends)
            one, other, forward = ends.node[begin], ends.node[begin + 1], ends.leaves[begin]
            following[np.where(forward, one, other)] = np.where(forward, other, one)
        heads, tails = _open_lines(down)
        points = np.stack([corners.x, corners.y, corners.kept], axis=1).astype(np.int32)
        chains, rings = _walk(following.tolist(), list(heads))
        earlier, self._open = self._open, []
        for chain in chains:
            pieces = tuple(_pieces(chain, points, earlier))
            if len(pieces) > _PIECES:
                pieces = (np.concatenate(pieces),)
            self._open.append(_Chain(heads[chain[0]], tails[chain[-1]], pieces))
        return [self._ring(ring, points, corners.owner, earlier) for ring in rings]

    def _ring(self, nodes: list[int], points: Points, owner: Ints, earlier: list[_Chain]) -> Ring:
        # The lowest edge of a ring lies in the strip that closes it, so at least one of its nodes is a corner.
        one = min(nodes)
        return Ring(int(owner[one]), np.concatenate(list(_pieces(nodes, points, earlier))))

    def _vertical(self, corners: Corners) -> _Ends:
        """Ends along vertical lines, including open ones from the strip above, which begin above all others."""
        n, m = len(corners), len(self._open)
        ends = _ends(
            corners, VERTICAL_SIDE[corners.kind], ~LEAVES_HORIZONTALLY[corners.kind], corners.x, corners.y, WEST
        )
        waiting = np.arange(n, n + m)
        x = np.array([chain.head_x for chain in self._open] + [chain.tail_x for chain in self._open], np.int64)
        side = np.repeat([EAST, WEST], m)
        return _Ends(
            np.concatenate([ends.node, waiting, waiting]),
            np.concatenate([ends.line, x]),
            np.concatenate([ends.side, side]),
            np.concatenate([ends.position, np.full(2 * m, -1)]),
            np.concatenate([ends.begins, np.ones(2 * m, bool)]),
            np.concatenate([ends.leaves, side == WEST]),
        )


def _horizontal(corners: Corners) -> _Ends:
    kind = corners.kind
    return _ends(corners, HORIZONTAL_SIDE[kind], LEAVES_HORIZONTALLY[kind], corners.y, corners.x, BELOW)


def _ends(corners: Corners, side: Ints, leaves: Bools, line: Ints, position: Ints, forward: int) -> _Ends:
    """Ends: two at a point on a straight piece, one at a corner. forward: the side that runs to larger positions."""
    here = np.flatnonzero(side >= 0)
    straight = here[corners.kind[here] >= STRAIGHT]
    node = np.concatenate([here, straight])
    out = np.concatenate([leaves[here] | (corners.kind[here] >= STRAIGHT), np.zeros(len(straight), bool)])
    begins = out == (side[node] == forward)
    return _Ends(node, line[node], side[node], position[node], begins, out)


def _sorted(ends: _Ends) -> _Ends:
    """Ends sorted along their lines; where one piece ends and another begins at a point, the end comes first."""
    order = np.lexsort((ends.begins, ends.position, ends.side, ends.line))
    return _Ends(*(getattr(ends, field.name)[order] for field in fields(ends)))


def _pairs(ends: _Ends) -> Ints:
    """Indices of the sorted ends at which a piece begins; its other end is the next one."""
    return np.flatnonzero(ends.begins[:-1] & _same_line(ends))


def _open_lines(ends: _Ends) -> tuple[dict[int, int], dict[int, int]]:
    """Line by node, for pieces without an end: those that run up to their node, and those that run down."""
    last = np.ones(len(ends.line), bool)
    last[:-1] = ~_same_line(ends)
    heads, tails = (np.flatnonzero(last & ends.begins & leaves) for leaves in (~ends.leaves, ends.leaves))
    return (
        dict(zip(ends.node[heads].tolist(), ends.line[heads].tolist(), strict=True)),
        dict(zip(ends.node[tails].tolist(), ends.line[tails].tolist(), strict=True)),
    )


def _same_line(ends: _Ends) -> Bools:
    """True for each sorted end but the last if the next lies on the same side of the same line."""
    return np.asarray((ends.line[1:] == ends.line[:-1]) & (ends.side[1:] == ends.side[:-1]))


def _walk(following: list[int], heads: list[int]) -> tuple[list[list[int]], list[list[int]]]:
    """Ordered nodes of each open chain, from its head, and of each ring."""
    seen = bytearray(len(following))
    chains: list[list[int]] = []
    rings: list[list[int]] = []
    for start in [*heads, *range(len(following))]:
        if seen[start]:
            continue
        path, node = [], start
        while node >= 0 and not seen[node]:
            seen[node] = 1
            path.append(node)
            node = following[node]
        (chains if node < 0 else rings).append(path)
    return chains, rings


def _pieces(nodes: list[int], points: Points, chains: list[_Chain]) -> Iterator[Points]:
    """The points of a path; node numbers beyond the corners denote chains."""
    n = len(points)
    order = np.array(nodes)
    cuts = np.flatnonzero(order >= n)
    begin = 0
    for cut in cuts.tolist():
        if cut > begin:
            yield points[order[begin:cut]]
        yield from chains[nodes[cut] - n].pieces
        begin = cut + 1
    if begin < len(order):
        yield points[order[begin:]]
