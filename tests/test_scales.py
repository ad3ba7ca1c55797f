"""The ladder: which scales, how large, from which level; positions never drift."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.scales import best_level, build_ladder

LADDER = (8.0, 4.0, 2.0, 1.0, 0.5)


def test_scales_by_mpp_coarse_to_fine() -> None:
    ladder = build_ladder(LADDER, (0.25, 0.25), Size(100_000, 80_000))
    assert [s.mpp for s in ladder.scales] == list(LADDER)
    assert [s.index for s in ladder.scales] == [0, 1, 2, 3, 4]
    assert ladder.scales[0].size == Size(3125, 2500)
    assert ladder.finest.size == Size(50_000, 40_000)
    assert ladder.ratio(ladder.finest) == 16
    assert not ladder.left_out_mpp


@pytest.mark.parametrize(
    ("slide_mpp", "kept"), [(0.25, 5), (0.2528, 5), (0.499, 5), (0.5022, 5), (0.6, 5), (0.7, 4), (1.0, 4), (3.9, 2)]
)
def test_scales_finer_than_the_slide_are_left_out(slide_mpp: float, kept: int) -> None:
    ladder = build_ladder(LADDER, (slide_mpp, slide_mpp), Size(5000, 5000))
    assert len(ladder) == kept
    assert ladder.left_out_mpp == LADDER[kept:]
    assert not ladder.upsampled


@pytest.mark.parametrize("slide_mpp_xy", [(8.0, 8.0), (5.1, 5.1), (2.0, 7.9)])
def test_a_slide_up_to_twice_as_coarse_as_the_coarsest_scale_is_upsampled(slide_mpp_xy: tuple[float, float]) -> None:
    ladder = build_ladder((4.0, 2.0), slide_mpp_xy, Size(1152, 700))
    assert [scale.mpp for scale in ladder.scales] == [4.0]
    assert ladder.left_out_mpp == (2.0,)
    assert ladder.upsampled
    assert ladder.finest.size == Size(ceil(288 * slide_mpp_xy[0]), ceil(175 * slide_mpp_xy[1]))


@pytest.mark.parametrize("slide_mpp_xy", [(28.97, 28.97), (16.1, 16.1), (0.25, 17.0)])
def test_a_coarser_slide_is_refused_with_numbers_and_remedy(slide_mpp_xy: tuple[float, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_ladder(LADDER, slide_mpp_xy, Size(1152, 700))
    message = str(caught.value)
    assert f"{max(slide_mpp_xy):g} µm" in message
    assert f"{max(slide_mpp_xy) / 8:.3g} times" in message
    assert "8 µm/px" in message
    assert "finer scan" in message
    assert "give the right mpp" in message


@pytest.mark.parametrize("slide_mpp", [0.25, 8.0, 9.9])
def test_a_slide_of_the_coarsest_scale_is_not_upsampled(slide_mpp: float) -> None:
    """Up to the tolerance, scanners' 0.2528 for 0.25, nothing is said of it."""
    assert not build_ladder(LADDER, (slide_mpp, slide_mpp), Size(1000, 1000)).upsampled


@pytest.mark.parametrize("mpps", [(), (1.0, 0.6), (0.5, 1.0), (0.0,), (-1.0,)])
def test_scales_must_halve(mpps: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="scales must"):
        build_ladder(mpps, (0.25, 0.25), Size(10, 10))


@given(st.integers(1, 500_000), st.floats(0.05, 30))
def test_a_finer_grid_is_twice_the_coarser(length: int, slide_mpp: float) -> None:
    ladder = build_ladder((32.0, 16.0, 8.0), (slide_mpp, slide_mpp), Size(length, length))
    for coarse, fine in zip(ladder.scales, ladder.scales[1:], strict=False):
        assert coarse.size.width == -(-fine.size.width // 2)


@given(st.integers(0, 200_000), st.sampled_from([0.25, 0.2528, 0.263, 0.499, 0.5]))
def test_positions_do_not_drift(x: int, slide_mpp: float) -> None:
    scale = build_ladder(LADDER, (slide_mpp, slide_mpp), Size(200_000, 200_000)).finest
    exact = Fraction(x) * Fraction(0.5) / Fraction(slide_mpp)
    assert abs(Fraction(scale.level0(Box(x, 0, x + 1, 1)).x0) - exact) < Fraction(1, 10**6)


def test_pixels_that_are_not_square() -> None:
    scale = build_ladder((1.0,), (0.25, 0.5), Size(1000, 1000)).finest
    assert scale.downsample_xy == (4.0, 2.0)
    assert scale.size == Size(250, 500)


@pytest.mark.parametrize(
    ("downsample", "level"), [(1.0, 0), (3.9, 0), (4.0, 1), (15.7, 1), (16.0, 2), (64.0, 3), (500.0, 3), (0.5, 0)]
)
def test_the_cheapest_level_that_has_the_detail(downsample: float, level: int) -> None:
    assert best_level([1.0, 3.9996, 15.994, 63.814], downsample) == level


def test_levels_need_not_be_in_order() -> None:
    assert best_level([1.0, 32.0, 4.0], 8.0) == 2
