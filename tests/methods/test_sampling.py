"""Sampling at points against four pixels weighed by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsi_magnet.methods.sampling import at_points


def slow_at(maps: Tensor, y: float, x: float) -> Tensor:
    """Values (K,) of maps (K, h, w) at a point in their pixels; the first pixel's centre is (0.5, 0.5)."""
    height, width = maps.shape[-2:]
    y, x = (min(max(at - 0.5, 0.0), size - 1.0) for at, size in ((y, height), (x, width)))
    top, left = int(y), int(x)
    found = torch.zeros(len(maps), dtype=torch.float64)
    for row, weight_y in ((top, 1 - y + top), (top + 1, y - top)):
        for column, weight_x in ((left, 1 - x + left), (left + 1, x - left)):
            if weight_y * weight_x > 0:
                found += weight_y * weight_x * maps[:, row, column].double()
    return found


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_points_are_four_pixels_weighed(seed: int, height: int, width: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, height, width, generator=rng)
    places = torch.rand(2, 5, 2, generator=rng) * 1.2 - 0.1
    found = at_points(maps, places)
    assert found.shape == (2, 3, 5)
    for n in range(2):
        for p, (y, x) in enumerate(places[n].tolist()):
            expected = slow_at(maps[n], y * height, x * width)
            assert torch.allclose(found[n, :, p].double(), expected, atol=1e-4)


def test_a_batch_has_the_bits_of_its_members() -> None:
    maps, places = torch.randn(3, 4, 9, 7), torch.rand(3, 50, 2)
    alone = torch.cat([at_points(maps[n : n + 1], places[n : n + 1]) for n in range(3)])
    assert torch.equal(at_points(maps, places), alone)
