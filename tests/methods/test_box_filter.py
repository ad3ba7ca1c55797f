"""Means over windows, against the windows themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_magnet.methods.box_filter import box_mean, box_sum, window_sizes


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 7, 8, 20])
def test_a_mean_is_that_of_the_pixels_in_the_window(radius: int) -> None:
    maps = torch.rand(2, 3, 13, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(radius))
    expected = np.empty(maps.shape)
    for y, x in np.ndindex(13, 11):
        rows, cols = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
        expected[..., y, x] = maps[..., rows, cols].numpy().mean(axis=(-2, -1))
    assert np.allclose(box_mean(maps, radius), expected, rtol=0, atol=1e-14)


def test_window_sizes_count_the_pixels_that_are_there() -> None:
    assert window_sizes(torch.zeros(1, 1, 3, 4), 1)[0, 0].tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]


def test_small_windows_keep_their_digits_in_float32() -> None:
    """An integral image in float32 would be off by hundredths here: its last entries are above a million."""
    maps = torch.rand(1, 1, 1024, 1024, generator=torch.Generator().manual_seed(0)) + 1
    exact = box_mean(maps.double(), 2)
    assert (box_mean(maps, 2) - exact).abs().max() < 5e-7


def test_a_pixel_depends_on_its_window_to_the_last_bit() -> None:
    maps = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    changed = maps.clone()
    changed[..., 20, 20] = 1e6
    same = box_sum(maps, 6)[0, 0] == box_sum(changed, 6)[0, 0]
    expected = torch.ones(40, 40, dtype=torch.bool)
    expected[14:27, 14:27] = False
    assert torch.equal(same, expected)


def test_the_gradient_is_that_of_a_linear_function() -> None:
    maps = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: box_mean(values, 1), (maps,))
