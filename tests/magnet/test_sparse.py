"""Refining blocks gives what refining all gives, wherever that could be selected."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.magnet.grid_selection import (
    may_select,
    refined_pixels,
    select_fraction_on_grid,
    select_on_grid,
)
from wsi_magnet.magnet.selection import select_fraction
from wsi_magnet.magnet.sparse import BLOCK_PX, refine_blocks
from wsi_magnet.magnet.step import refine_patch
from wsi_magnet.magnet.uncertainty import query_score


class Blurring:
    """Looks two pixels far; counts the pixels that it is asked for."""

    def __init__(self) -> None:
        self.pixels = 0

    def __call__(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """Logits of the mean round each pixel, clearly of one class."""
        self.pixels += fine.shape[-2] * fine.shape[-1]
        return F.avg_pool2d(100 * (3 * fine - coarse), 5, stride=1, padding=2)


def maps(height: int, width: int, seed: int = 0, sharpness: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, height, width, generator=generator).mul(sharpness).softmax(dim=1)


@pytest.mark.parametrize("size", [(200, 330), (64, 64), (70, 129)])
@pytest.mark.parametrize("share", [0.0, 0.0005, 1.0])
def test_needed_blocks_are_those_of_the_whole(size: tuple[int, int], share: float) -> None:
    fine, coarse = maps(*size, seed=1), maps(*size, seed=2)
    needed = torch.rand(size, generator=torch.Generator().manual_seed(3)) < share
    found = refine_blocks(fine=fine, coarse=coarse, refiner=Blurring(), needed=needed, reach_px=2)
    whole = refine_patch(fine=fine, coarse=coarse, refiner=Blurring())
    torch.testing.assert_close(found[..., needed], whole[..., needed])
    assert found.shape == fine.shape
    assert torch.allclose(found.sum(dim=1), torch.ones(()))


def test_blocks_where_nothing_is_needed_are_not_looked_at() -> None:
    side = 8 * BLOCK_PX
    needed = torch.zeros(side, side, dtype=torch.bool)
    needed[BLOCK_PX + 5, 3 * BLOCK_PX + 7] = needed[BLOCK_PX + 5, 4 * BLOCK_PX] = True
    refiner = Blurring()
    found = refine_blocks(fine=maps(side, side), coarse=maps(side, side, 1), refiner=refiner, needed=needed, reach_px=2)
    assert refiner.pixels == (BLOCK_PX + 4) * (2 * BLOCK_PX + 4)
    assert (found[..., 0, 0] == 1 / 3).all()


@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("median_px", [1, 3, 5])
def test_what_is_selected_inside_the_rim_does_not_change(median_px: int, width: float) -> None:
    ratio, rim, above = 2, median_px // 2, 0.55
    fine = maps(256, 256, seed=4)
    smooth = F.avg_pool2d(torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(5)), 31, 1, 15) * 60
    coarse = smooth.softmax(dim=1)
    selectable = may_select(coarse=coarse, ratio=ratio, above=above, median_px=median_px)
    needed = refined_pixels(selectable, rim=rim, ratio=ratio, median_px=median_px)
    assert 0 < needed.float().mean() < 1
    parts = refine_blocks(fine=fine, coarse=coarse, refiner=Blurring(), needed=needed, reach_px=2)
    whole = refine_patch(fine=fine, coarse=coarse, refiner=Blurring())
    found, expected = (
        select_on_grid(coarse=coarse, refined=r, ratio=ratio, above=above, width=width, median_px=median_px)[
            ..., rim : 128 - rim, rim : 128 - rim
        ]
        for r in (parts, whole)
    )
    assert expected.any()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("points", [0, 1, 7, 100, 1000, 0.25, 0.75, 1.0, 4095, 5000])
@pytest.mark.parametrize(("ratio", "median_px"), [(1, 1), (2, 3), (4, 5)])
def test_the_best_k_are_those_of_all_pixels(points: float, ratio: int, median_px: int) -> None:
    coarse, refined = maps(64, 64, seed=6), maps(64, 64, seed=7)
    refined[..., :32, :] = coarse[..., :32, :] = 1 / 3  # half of all scores are equal
    score = query_score(coarse=coarse, refined=refined, grid_hw=(64 // ratio, 64 // ratio), median_px=median_px)
    found = select_fraction_on_grid(coarse=coarse, refined=refined, ratio=ratio, points=points, median_px=median_px)
    assert torch.equal(found > 0, select_fraction(score, points))
