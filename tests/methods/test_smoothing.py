"""The smoothing by matrices against the sum over all pairs of pixels."""

from __future__ import annotations

import pytest
import torch

from wsi_magnet.methods.smoothing import Smoothing


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("size_hw", [(9, 14), (70, 5)])
def test_smoothing_is_the_normalised_sum_over_all_pairs(sigma: float, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    maps = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0))
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    kernel = (-torch.cdist(places, places).square() / (2 * sigma**2)).exp()
    scale = kernel.sum(dim=1).rsqrt()
    expected = (scale[:, None] * kernel * scale) @ maps.flatten(1).T.double()
    found = Smoothing(size_hw, sigma, torch.device("cpu")).filter(maps)
    assert torch.allclose(found.flatten(1).T.double(), expected, rtol=0, atol=1e-5)
