"""Gaussian filtering of values at scattered points of a space of a few dimensions, by the permutohedral lattice.

Reimplemented from A. Adams, J. Baek, M. A. Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010. Positions are laid into the hyperplane of d + 1 coordinates whose sum is 0; there the
lattice's vertices are the integer points whose coordinates leave the same remainder when divided by d + 1. Each point
lies in a simplex of d + 1 vertices. Its value is divided among these (splat), the vertices are blurred by 1/4, 1/2, 1/4
along each of d + 1 directions, and the point reads its value back with the same weights (slice). The time grows with
the number of points and with d²; the result is a Gaussian of standard deviation 1 but for a constant factor, and for an
error of a few percent that depends on where a point lies in its simplex. No vertices are made for the blur alone.

Splat and slice are sums over lists of a fixed order, so the same input gives the same bits. N: points, d: dimensions of
the space, M: vertices, K: values of a point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 14
"""Points that are placed at once: their intermediate results stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """The vertices round a set of points, and the filter between them."""

    vertices: Tensor
    """int32 (N, d + 1): those of the simplex round each point."""
    weights: Tensor
    """float32 (N, d + 1): barycentric coordinates of the point, 1 in sum."""
    points: Tensor
    """int32 (N * (d + 1),): points round each vertex, vertex after vertex."""
    point_weights: Tensor
    """float32 (N * (d + 1),): weights of `points`."""
    starts: Tensor
    """int32 (M + 1,): the first of each vertex's `points`, and their number."""
    neighbours: Tensor
    """int64 (d + 1, 2, M): the vertex before and after each, along each direction; M where there is none."""

    def filter(self, values: Tensor) -> Tensor:
        """Gaussian sums of the values, but for a constant factor. float32 (N, K), as the result."""
        return self.slice(self.blur(self.splat(values)))

    def splat(self, values: Tensor) -> Tensor:
        """Values of the points (N, K) divided among the vertices, (M, K)."""
        return F.embedding_bag(
            self.points,
            values,
            self.starts,
            mode="sum",
            per_sample_weights=self.point_weights,
            include_last_offset=True,
        )

    def blur(self, values: Tensor) -> Tensor:
        """Values of the vertices (M, K), blurred along each direction."""
        for before, after in self.neighbours:
            padded = F.pad(values, (0, 0, 0, 1))
            values = values / 2 + (padded.index_select(0, before) + padded.index_select(0, after)) / 4
        return values

    def slice(self, values: Tensor) -> Tensor:
        """Values at the points (N, K), of those at the vertices (M, K)."""
        return F.embedding_bag(self.vertices, values, mode="sum", per_sample_weights=self.weights)

    def scaled(self, factors: Tensor) -> Lattice:
        """A lattice whose filter is `factors * filter(factors * values)`. factors: float32 (N,)."""
        weights = self.weights * factors[:, None]
        point_weights = self.point_weights * factors.index_select(0, self.points)
        return Lattice(self.vertices, weights, self.points, point_weights, self.starts, self.neighbours)


def build_lattice(positions: Tensor) -> Lattice:
    """The lattice for points at `positions`, float32 (d, N), in standard deviations of the Gaussian."""
    dimensions = len(positions)
    elevated = _elevation(dimensions).to(positions) @ positions
    numbering = _number_vertices(elevated)
    placed = [_place(part, numbering) for part in elevated.split(CHUNK, dim=1)]
    keys = torch.cat([keys for keys, _ in placed])
    weights = torch.cat([weights for _, weights in placed])
    known, vertices = torch.unique(keys, return_inverse=True)
    vertices = vertices.int()
    order = vertices.view(-1).argsort(stable=True)
    counts = torch.bincount(vertices.view(-1), minlength=len(known))
    return Lattice(
        vertices,
        weights,
        (order // (dimensions + 1)).int(),
        weights.view(-1).index_select(0, order),
        F.pad(counts.cumsum(0), (1, 0)).int(),
        _neighbours(known, numbering),
    )


def _elevation(dimensions: int) -> Tensor:
    """Matrix (d + 1, d) of orthogonal columns of sum 0, scaled so that the blur's standard deviation is 1.

    That is by (d + 1) · √(2/3): the variances of splat, blur and slice add up to it.
    """
    matrix = torch.zeros(dimensions + 1, dimensions, dtype=torch.float64)
    for column in range(dimensions):
        matrix[: column + 1, column] = 1
        matrix[column + 1, column] = -(column + 1)
        matrix[:, column] *= (dimensions + 1) * math.sqrt(2 / 3) / math.sqrt((column + 1) * (column + 2))
    return matrix


@dataclass(frozen=True, eq=False)
class Numbering:
    """A number for each vertex in the range of the points, their neighbours included.

    A vertex of remainder k has coordinates m * (d + 1) + k. The last follows from the others, as their sum is 0. Its
    number is k * size + sum((m - low) * radices) over the first d.
    """

    low: Tensor
    """int64 (d + 1, 1): smallest m of each coordinate; 0 for the last."""
    radices: Tensor
    """int64 (d + 1, 1); 0 for the last."""
    size: int
    """Numbers for each remainder."""


def _number_vertices(elevated: Tensor) -> Numbering:
    """The numbering for points at `elevated`, float32 (d + 1, N)."""
    scaled = elevated / len(elevated)
    low, high = scaled.amin(dim=1).floor().long() - 3, scaled.amax(dim=1).ceil().long() + 3
    low[-1] = high[-1] = 0
    extents = high - low + 1
    radices = F.pad(extents[:-2].cumprod(0), (1, 0), value=1)
    return Numbering(low[:, None], F.pad(radices, (0, 1))[:, None], int(extents.prod()))


def _place(elevated: Tensor, numbering: Numbering) -> tuple[Tensor, Tensor]:
    """Numbers of the vertices round each point, int64 (n, d + 1), and its barycentric coordinates, float32 alike.

    elevated: float32 (d + 1, n). The vertex of remainder 0 is the nearest point of multiples of d + 1, mended where the
    sum of its coordinates is not 0; the vertex of remainder k is k above it, but k - (d + 1) in the k coordinates whose
    rests are smallest.
    """
    scaled = elevated / len(elevated)
    base = scaled.round()
    rest = scaled - base
    ranks = _ranks(rest) + base.sum(dim=0).long()
    wraps = (ranks < 0).long() - (ranks >= len(elevated)).long()
    ranks, base, rest = ranks + wraps * len(elevated), base + wraps, rest - wraps
    falling = torch.empty_like(rest).scatter_(0, ranks, rest)
    weights = torch.cat([1 + falling[-1:] - falling[:1], (falling[:-1] - falling[1:]).flip(0)])
    first = ((base.long() - numbering.low) * numbering.radices).sum(dim=0, keepdim=True)
    lowered = torch.empty_like(ranks).scatter_(0, ranks, numbering.radices.expand_as(ranks))
    keys = torch.cat([first, (numbering.size - lowered[1:]).flip(0)]).cumsum(0)
    return keys.T, weights.T


def _ranks(rest: Tensor) -> Tensor:
    """Rank of each coordinate, int64 (d + 1, n): 0 for the largest; of equals the first is the larger."""
    last = len(rest) - 1
    ranks = torch.arange(last, -1, -1, dtype=torch.uint8, device=rest.device)[:, None].repeat(1, rest.shape[1])
    for i in range(len(rest)):
        for j in range(i):
            smaller = (rest[i] <= rest[j]).view(torch.uint8)
            ranks[i] += smaller
            ranks[j] -= smaller  # which has started with all that follow it
    return ranks.long()


def _neighbours(known: Tensor, numbering: Numbering) -> Tensor:
    """Places in `known` of the vertices before and after each along each direction, int64 (d + 1, 2, M); M if missing.

    Direction j is -1 in all coordinates but d in the j-th; the remainder falls by 1, or from 0 to d.
    """
    size, last = numbering.size, len(numbering.radices) - 1
    remainder, everywhere = known // size, int(numbering.radices.sum())
    before = known + torch.where(remainder > 0, -size, last * size - everywhere) + numbering.radices
    after = known + torch.where(remainder < last, size, everywhere - last * size) - numbering.radices
    wanted = torch.stack([before, after], dim=1)
    found = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    return torch.where(known[found] == wanted, found, len(known))
