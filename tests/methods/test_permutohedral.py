"""The permutohedral lattice: its geometry vertex by vertex, and its filter against the exact sum."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from wsi_magnet.methods.permutohedral import _elevation, _number_vertices, _place, build_lattice


def positions(dimensions: int, count: int, spread: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(dimensions)
    return spread * torch.randn(dimensions, count, generator=rng)


def coordinates(keys: Tensor, low: Tensor, radices: Tensor, size: int) -> Tensor:
    """Coordinates of numbered vertices, int64 (..., d + 1)."""
    remainder, rest = keys // size, keys % size
    columns: list[Tensor] = []
    for radix, first in reversed(list(zip(radices[:-1, 0].tolist(), low[:-1, 0].tolist(), strict=True))):
        columns.insert(0, (rest // radix + first) * len(radices) + remainder)
        rest = rest % radix
    return torch.stack([*columns, -torch.stack(columns).sum(dim=0)], dim=-1)


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_elevation_keeps_distances_but_for_a_factor(dimensions: int) -> None:
    matrix = _elevation(dimensions)
    gram = matrix.T @ matrix
    assert torch.allclose(gram, torch.eye(dimensions, dtype=torch.float64) * (dimensions + 1) ** 2 * 2 / 3)
    assert torch.allclose(matrix.sum(dim=0), torch.zeros(dimensions, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_a_point_is_the_weighed_mean_of_the_vertices_round_it(dimensions: int) -> None:
    elevated = _elevation(dimensions).float() @ positions(dimensions, 500, 3.0)
    numbering = _number_vertices(elevated)
    keys, weights = _place(elevated, numbering)
    vertices = coordinates(keys, numbering.low, numbering.radices, numbering.size)
    assert weights.min() > -1e-5
    assert torch.allclose(weights.sum(dim=1), torch.ones(500), atol=1e-5)
    assert torch.allclose((weights[..., None] * vertices).sum(dim=1), elevated.T, atol=1e-4)
    assert (vertices.sum(dim=-1) == 0).all()
    assert (vertices % (dimensions + 1) == torch.arange(dimensions + 1).view(1, -1, 1)).all()


@pytest.mark.parametrize("dimensions", [2, 5])
def test_neighbours_are_those_along_each_direction(dimensions: int) -> None:
    points = positions(dimensions, 400)
    elevated = _elevation(dimensions).float() @ points
    numbering = _number_vertices(elevated)
    keys, _ = _place(elevated, numbering)
    vertices = coordinates(keys.unique(), numbering.low, numbering.radices, numbering.size).tolist()
    places = {tuple(vertex): place for place, vertex in enumerate(vertices)}
    found = build_lattice(points).neighbours
    for j, (side, sign) in itertools.product(range(dimensions + 1), enumerate((1, -1))):
        step = [sign * (dimensions if i == j else -1) for i in range(dimensions + 1)]
        expected = [places.get(tuple(v + s for v, s in zip(w, step, strict=True)), len(places)) for w in vertices]
        assert found[j, side].tolist() == expected


def test_splat_and_slice_are_the_same_weights() -> None:
    """<slice(x), y> = <x, splat(y)>."""
    lattice = build_lattice(positions(3, 300))
    rng = torch.Generator().manual_seed(0)
    values, points = torch.rand(lattice.neighbours.shape[-1], 1, generator=rng), torch.rand(300, 1, generator=rng)
    left = (lattice.slice(values) * points).sum()
    assert left.item() == pytest.approx((values * lattice.splat(points)).sum().item(), rel=1e-4)
    assert lattice.splat(torch.ones(300, 2)).sum().item() == pytest.approx(600, rel=1e-5)


def test_a_crowded_plane_is_filtered_as_by_the_exact_sum() -> None:
    rng = torch.Generator().manual_seed(0)
    points, values = 8 * torch.rand(2, 3000, generator=rng), torch.rand(3000, 2, generator=rng)
    kernel = (-torch.cdist(points.T, points.T).square() / 2).exp()
    exact = (kernel @ values) / kernel.sum(dim=1, keepdim=True)
    lattice = build_lattice(points)
    found = lattice.filter(values) / lattice.filter(torch.ones(3000, 1))
    assert (found - exact).abs().mean() < 0.01
    assert (found - exact).abs().max() < 0.05


def test_scaling_multiplies_before_and_after() -> None:
    lattice, rng = build_lattice(positions(2, 100)), torch.Generator().manual_seed(0)
    values, factors = torch.rand(100, 2, generator=rng), torch.rand(100, generator=rng)
    expected = factors[:, None] * lattice.filter(factors[:, None] * values)
    assert torch.allclose(lattice.scaled(factors).filter(values), expected, atol=1e-5)
