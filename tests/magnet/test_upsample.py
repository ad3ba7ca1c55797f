"""Doubling by hand against the library's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.magnet.upsample import double_inside


def twin(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 4), st.integers(3, 24), st.integers(3, 24))
def test_doubling_is_the_librarys(seed: int, n: int, c: int, height: int, width: int) -> None:
    maps = torch.rand(n, c, height, width, generator=torch.Generator().manual_seed(seed))
    kept, found = maps.clone(), double_inside(maps)
    assert found.shape == (n, c, 2 * height - 4, 2 * width - 4)
    torch.testing.assert_close(found, twin(maps), atol=1e-6, rtol=0)
    assert torch.equal(maps, kept)


@pytest.mark.parametrize("hw", [(256, 256), (291, 130), (4, 301)])
def test_large_maps_too(hw: tuple[int, int]) -> None:
    maps = torch.rand(1, 3, *hw)
    torch.testing.assert_close(double_inside(maps), twin(maps), atol=1e-6, rtol=0)


def test_maps_that_lie_otherwise_in_memory() -> None:
    whole = torch.rand(2, 3, 20, 24)
    for maps in (
        whole.contiguous(memory_format=torch.channels_last),
        whole[..., 3:-2, 5:-4],
        whole.transpose(-1, -2),
        whole[:, ::2],
    ):
        torch.testing.assert_close(double_inside(maps), twin(maps), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, 1 / 3, 0.1])
@pytest.mark.parametrize("hw", [(8, 8), (7, 10), (3, 3)])
def test_a_constant_stays_exactly_a_constant(value: float, hw: tuple[int, int]) -> None:
    found = double_inside(torch.full((1, 2, *hw), value))
    assert (found == torch.tensor(value)).all()


@pytest.mark.parametrize(("per_row", "per_column"), [(1.0, 0.0), (0.0, 1.0), (0.5, -2.0)])
@pytest.mark.parametrize("hw", [(8, 9), (7, 12)])
def test_a_ramp_stays_a_ramp_in_its_place(per_row: float, per_column: float, hw: tuple[int, int]) -> None:
    """A fine pixel's centre lies at (i + 0.5) / 2 - 0.5 of the coarse ones; the first two are cut off."""
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in hw)
    ramp = per_row * rows[:, None] + per_column * columns
    fine_rows, fine_columns = ((torch.arange(2, 2 * side - 2) + 0.5) / 2 - 0.5 for side in hw)
    expected = per_row * fine_rows[:, None] + per_column * fine_columns
    torch.testing.assert_close(double_inside(ramp[None, None])[0, 0], expected, atol=1e-6, rtol=0)


def test_probabilities_still_add_up() -> None:
    maps = torch.randn(1, 4, 30, 31).mul(3).softmax(dim=1)
    found = double_inside(maps)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 56, 58), atol=1e-6, rtol=0)
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_doubles_as_a_processor_does() -> None:
    maps = torch.rand(2, 3, 21, 30)
    torch.testing.assert_close(double_inside(maps.cuda()).cpu(), double_inside(maps), atol=1e-6, rtol=0)
