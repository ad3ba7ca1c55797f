"""One MagNet step: blocks refined like the whole, selected pixels replaced, maps upsampled as by the library."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.magnet.grid_selection import may_select, refined_pixels, select_on_grid
from wsi_magnet.magnet.selection import select_fraction
from wsi_magnet.magnet.step import PART_PX, magnet_step, refine_parts, refine_patch, upsample_inner, uses_rgb

COARSE = torch.rand(1, 3, 4, 6).softmax(dim=1)
REFINED = torch.rand(1, 3, 4, 6).softmax(dim=1)


def test_selected_pixels_take_all_classes_from_the_refined_map() -> None:
    selected = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    selected[0, 0, 2, 3] = True
    merged = magnet_step(coarse=COARSE, refined=REFINED, selected=selected)
    assert torch.equal(merged[..., 2, 3], REFINED[..., 2, 3])
    assert (merged == COARSE).all(dim=1).sum() == 4 * 6 - 1


def test_nothing_selected_is_y_and_everything_is_r() -> None:
    for points, expected in ((0, COARSE), (1.0, REFINED)):
        selected = select_fraction(torch.rand(1, 1, 4, 6), points)
        assert torch.equal(magnet_step(coarse=COARSE, refined=REFINED, selected=selected), expected)


def test_a_soft_selection_mixes_in_proportion() -> None:
    weight = torch.full((1, 1, 4, 6), 0.25)
    merged = magnet_step(coarse=COARSE, refined=REFINED, selected=weight)
    torch.testing.assert_close(merged, 0.75 * COARSE + 0.25 * REFINED)


def test_a_soft_selection_keeps_probabilities_that_add_up() -> None:
    merged = magnet_step(coarse=COARSE, refined=REFINED, selected=torch.rand(1, 1, 4, 6))
    torch.testing.assert_close(merged.sum(dim=1), torch.ones(1, 4, 6))


def test_all_or_nothing_of_a_soft_selection_is_the_hard_one() -> None:
    hard = torch.rand(1, 1, 4, 6) < 0.5
    soft = magnet_step(coarse=COARSE, refined=REFINED, selected=hard.float())
    torch.testing.assert_close(soft, magnet_step(coarse=COARSE, refined=REFINED, selected=hard))


def test_the_refined_map_is_the_softmax_of_the_refiner_given_both_maps_by_name() -> None:
    seen: dict[str, Tensor] = {}

    def refiner(*, fine: Tensor, coarse: Tensor) -> Tensor:
        seen.update(fine=fine, coarse=coarse)
        return coarse.log().half()

    refined = refine_patch(fine=REFINED, coarse=COARSE, refiner=refiner)
    assert seen["fine"] is REFINED
    assert seen["coarse"] is COARSE
    assert refined.dtype == torch.float32
    torch.testing.assert_close(refined, COARSE, atol=1e-3, rtol=0)


# ---- blocks --------------------------------------------------------------------------------------------------------


class Blurring:
    """A refiner with a receptive radius of 2 pixels that counts the pixels it computes."""

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
    found = refine_parts(fine=fine, coarse=coarse, refiner=Blurring(), needed=needed, radius_px=2)
    whole = refine_patch(fine=fine, coarse=coarse, refiner=Blurring())
    torch.testing.assert_close(found[..., needed], whole[..., needed])
    assert found.shape == fine.shape
    assert torch.allclose(found.sum(dim=1), torch.ones(()))


def test_blocks_without_needed_pixels_are_not_computed() -> None:
    side = 8 * PART_PX
    needed = torch.zeros(side, side, dtype=torch.bool)
    needed[PART_PX + 5, 3 * PART_PX + 7] = needed[PART_PX + 5, 4 * PART_PX] = True
    refiner = Blurring()
    found = refine_parts(fine=maps(side, side), coarse=maps(side, side, 1), refiner=refiner, needed=needed, radius_px=2)
    assert refiner.pixels == (PART_PX + 4) * (2 * PART_PX + 4)
    assert (found[..., 0, 0] == 1 / 3).all()


class Seeing(Blurring):
    """Looks at the pixels too."""

    uses_rgb = True

    def __call__(self, *, fine: Tensor, coarse: Tensor, rgb: Tensor | None = None) -> Tensor:
        """Logits of the mean of all three."""
        assert rgb is not None
        return super().__call__(fine=fine + rgb, coarse=coarse)


@pytest.mark.parametrize("share", [0.0005, 1.0])
def test_pixels_are_cut_as_the_maps_are(share: float) -> None:
    fine, coarse = maps(200, 330, seed=1), maps(200, 330, seed=2)
    rgb = torch.rand(fine.shape, generator=torch.Generator().manual_seed(4))
    needed = torch.rand((200, 330), generator=torch.Generator().manual_seed(3)) < share
    refiner = Seeing()
    found = refine_parts(fine=fine, coarse=coarse, refiner=refiner, needed=needed, radius_px=2, rgb=rgb)
    whole = refine_patch(fine=fine, coarse=coarse, refiner=Seeing(), rgb=rgb)
    torch.testing.assert_close(found[..., needed], whole[..., needed])
    assert (refiner.pixels < 200 * 330) == (share < 1)
    assert uses_rgb(refiner)
    assert not uses_rgb(Blurring())


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
    parts = refine_parts(fine=fine, coarse=coarse, refiner=Blurring(), needed=needed, radius_px=2)
    whole = refine_patch(fine=fine, coarse=coarse, refiner=Blurring())
    found, expected = (
        select_on_grid(coarse=coarse, refined=r, ratio=ratio, above=above, width=width, median_px=median_px)[
            ..., rim : 128 - rim, rim : 128 - rim
        ]
        for r in (parts, whole)
    )
    assert expected.any()
    torch.testing.assert_close(found, expected)


# ---- upsampling ----------------------------------------------------------------------------------------------------


def library_upsampling(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 4), st.integers(3, 24), st.integers(3, 24))
def test_upsampling_is_the_librarys(seed: int, n: int, c: int, height: int, width: int) -> None:
    maps = torch.rand(n, c, height, width, generator=torch.Generator().manual_seed(seed))
    kept, found = maps.clone(), upsample_inner(maps)
    assert found.shape == (n, c, 2 * height - 4, 2 * width - 4)
    torch.testing.assert_close(found, library_upsampling(maps), atol=1e-6, rtol=0)
    assert torch.equal(maps, kept)


@pytest.mark.parametrize("hw", [(256, 256), (291, 130), (4, 301)])
def test_upsampling_large_maps_is_too(hw: tuple[int, int]) -> None:
    maps = torch.rand(1, 3, *hw)
    torch.testing.assert_close(upsample_inner(maps), library_upsampling(maps), atol=1e-6, rtol=0)


def test_maps_with_any_memory_layout_are_upsampled() -> None:
    whole = torch.rand(2, 3, 20, 24)
    for maps in (
        whole.contiguous(memory_format=torch.channels_last),
        whole[..., 3:-2, 5:-4],
        whole.transpose(-1, -2),
        whole[:, ::2],
    ):
        torch.testing.assert_close(upsample_inner(maps), library_upsampling(maps), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, 1 / 3, 0.1])
@pytest.mark.parametrize("hw", [(8, 8), (7, 10), (3, 3)])
def test_a_constant_stays_exactly_a_constant(value: float, hw: tuple[int, int]) -> None:
    found = upsample_inner(torch.full((1, 2, *hw), value))
    assert (found == torch.tensor(value)).all()


@pytest.mark.parametrize(("per_row", "per_column"), [(1.0, 0.0), (0.0, 1.0), (0.5, -2.0)])
@pytest.mark.parametrize("hw", [(8, 9), (7, 12)])
def test_a_ramp_stays_a_ramp_in_its_place(per_row: float, per_column: float, hw: tuple[int, int]) -> None:
    """A fine pixel's centre lies at (i + 0.5) / 2 - 0.5 of the coarse ones; the first two are cut off."""
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in hw)
    ramp = per_row * rows[:, None] + per_column * columns
    fine_rows, fine_columns = ((torch.arange(2, 2 * side - 2) + 0.5) / 2 - 0.5 for side in hw)
    expected = per_row * fine_rows[:, None] + per_column * fine_columns
    torch.testing.assert_close(upsample_inner(ramp[None, None])[0, 0], expected, atol=1e-6, rtol=0)


def test_probabilities_still_add_up() -> None:
    maps = torch.randn(1, 4, 30, 31).mul(3).softmax(dim=1)
    found = upsample_inner(maps)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 56, 58), atol=1e-6, rtol=0)
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_upsamples_as_a_cpu_does() -> None:
    maps = torch.rand(2, 3, 21, 30)
    torch.testing.assert_close(upsample_inner(maps.cuda()).cpu(), upsample_inner(maps), atol=1e-6, rtol=0)
