"""Coarser maps on finer grids: held against torch, and against the obvious."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.evaluate.sampling import bilinear, nearest
from wsi_magnet.geometry import Box, Size
from wsi_magnet.scales import Scale, build_ladder


def cut(whole: npt.NDArray[Any]) -> Any:
    return lambda box: whole[(..., *box.slices_yx)]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_upsampling_by_powers_of_two_is_torchs(steps: int) -> None:
    ladder = build_ladder([8.0, 4.0, 2.0, 1.0], (1.0, 1.0), Size(88, 72))
    coarse, fine = ladder.scales[3 - steps], ladder.finest
    whole = np.random.default_rng(0).random((3, *coarse.size.hw), np.float32)
    theirs = F.interpolate(torch.from_numpy(whole)[None], scale_factor=2**steps, mode="bilinear", align_corners=False)
    box = Box(5, 3, 88, 70)
    ours = bilinear(coarse, fine, box, cut(whole))
    assert np.allclose(ours, theirs[0].numpy()[(..., *box.slices_yx)], atol=1e-6)


def test_the_same_grid_is_copied() -> None:
    scale = Scale(0, 1.0, (1.7, 1.7), Size(30, 20))
    whole = np.random.default_rng(0).random((2, 20, 30), np.float32)
    assert np.array_equal(bilinear(scale, scale, Box(3, 4, 30, 20), cut(whole)), whole[:, 4:, 3:])


@given(st.floats(1, 5), st.integers(0, 20), st.integers(0, 20))
def test_a_ramp_stays_in_place_at_any_ratio(ratio: float, x: int, y: int) -> None:
    coarse, fine = Scale(0, ratio, (ratio, ratio), Size(40, 40)), Scale(1, 1.0, (1.0, 1.0), Size(40, 40))
    centres = (np.arange(40) + 0.5) * ratio
    ramp = np.stack(np.meshgrid(centres, centres)).astype(np.float32)
    box = Box(x, y, x + 15, y + 15)
    found = bilinear(coarse, fine, box, cut(ramp))
    expected = np.stack(np.meshgrid(np.arange(x, x + 15) + 0.5, np.arange(y, y + 15) + 0.5))
    assert np.allclose(found, np.maximum(expected, ratio / 2), atol=1e-3)


def test_any_box_is_cut_from_the_whole() -> None:
    coarse, fine = Scale(0, 2.0, (2.1, 1.9), Size(30, 30)), Scale(1, 1.0, (1.0, 1.0), Size(60, 56))
    whole = np.random.default_rng(0).random((2, 30, 30), np.float32)
    box = Box(13, 7, 41, 50)
    everything = bilinear(coarse, fine, fine.grid, cut(whole))
    assert np.allclose(bilinear(coarse, fine, box, cut(whole)), everything[(..., *box.slices_yx)], atol=1e-6)


def test_labels_are_repeated() -> None:
    coarse, fine = Scale(0, 2.0, (2.0, 2.0), Size(3, 2)), Scale(1, 1.0, (1.0, 1.0), Size(6, 4))
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(nearest(coarse, fine, fine.grid, cut(labels)), np.kron(labels, np.ones((2, 2), np.uint8)))
