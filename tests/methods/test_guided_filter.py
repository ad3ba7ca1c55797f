"""The guided filter against its formula, window by window in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.methods.made import (
    accuracy,
    maps_of,
    shifted_disc,
)
from wsi_magnet.methods.guided_filter import GuidedFilter, guided_filter

Array = npt.NDArray[np.float64]


def by_windows(guide: Array, values: Array, radius: int, epsilon: float) -> Array:
    """The formula as it is printed. guide: (3, H, W); values: (H, W), as the result."""
    height, width = values.shape
    slopes, offsets = np.empty((3, height, width)), np.empty((height, width))
    for y, x in np.ndindex(height, width):
        window = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        colours, inputs = guide[:, *window].reshape(3, -1), values[window].ravel()
        mean = colours.mean(axis=1)
        covariance = np.cov(colours, bias=True) + epsilon * np.eye(3)
        slopes[:, y, x] = np.linalg.solve(covariance, (colours * inputs).mean(axis=1) - mean * inputs.mean())
        offsets[y, x] = inputs.mean() - slopes[:, y, x] @ mean
    result = np.empty((height, width))
    for y, x in np.ndindex(height, width):
        window = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        result[y, x] = slopes[:, *window].mean(axis=(1, 2)) @ guide[:, y, x] + offsets[window].mean()
    return result


@pytest.mark.parametrize(("radius", "epsilon"), [(1, 1e-2), (3, 1e-3), (9, 1e-4)])
def test_the_filter_is_the_formula(radius: int, epsilon: float) -> None:
    maps = maps_of("blocks", 2, size_hw=(12, 13))
    assert maps.rgb is not None
    line = maps.rgb[:, :1] * torch.tensor([0.6, 0.9, 0.4]).view(1, 3, 1, 1)  # colours on a line: a flat matrix
    for guide in (maps.rgb, line):
        found = guided_filter(guide, maps.coarse, radius, epsilon)
        exact = guided_filter(guide.double(), maps.coarse.double(), radius, epsilon)
        for k in range(2):
            expected = by_windows(guide[0].double().numpy(), maps.coarse[0, k].double().numpy(), radius, epsilon)
            assert np.allclose(exact[0, k], expected, rtol=0, atol=1e-9)
            assert np.allclose(found[0, k], expected, rtol=0, atol=1e-4)


def test_a_map_that_is_a_linear_function_of_the_guide_stays() -> None:
    rgb = torch.rand(1, 3, 30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = 0.2 + (rgb * torch.tensor([0.3, 0.1, 0.2]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    assert torch.allclose(guided_filter(rgb, values, 4, 1e-12), values, atol=1e-8)


def test_the_radius_is_a_length() -> None:
    maps = maps_of("blocks")
    half = GuidedFilter(3, {"radius_um": 3.0}).refine(replace(maps, mpp=0.5))
    assert torch.equal(half, GuidedFilter(3, {"radius_um": 6.0}).refine(replace(maps, mpp=1.0)))
    assert GuidedFilter(3, {"radius_um": 3.0}).receptive_radius_px(0.5) == 12
    assert GuidedFilter(3, {"radius_um": 3.0}).receptive_radius_px(100.0) == 2


def test_edges_move_to_those_of_the_image() -> None:
    maps, sets = shifted_disc()
    assert accuracy(GuidedFilter(2, {"radius_um": 8.0}).refine(maps), sets) > accuracy(maps.coarse, sets) + 0.02
