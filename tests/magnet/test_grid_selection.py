"""The selection that looks at few pixels, against the published one that looks at all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.magnet.grid_selection import (
    may_select,
    median_reaches,
    sample,
    select_fraction_on_grid,
    select_on_grid,
    spread,
)
from wsi_magnet.magnet.selection import mixing_weight, select_fraction
from wsi_magnet.magnet.uncertainty import median_blur, query_score

GRID_HW = (9, 13)
"""Not square, and lower than the widest window."""

RATIOS, SIDES, CLASSES = (1, 2, 4, 8), (1, 3, 5, 11), (2, 3, 7)


def maps(n_classes: int, ratio: int, seed: int, *, eighths: bool = False) -> Tensor:
    """Probabilities of two images; in whole eighths, so that many scores are equal, or any."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (side * ratio for side in GRID_HW)
    if not eighths:
        return torch.randn(2, n_classes, height, width, generator=generator).mul(2).softmax(dim=1)
    drawn = torch.randint(0, n_classes, (2, height, width, 8), generator=generator)
    return F.one_hot(drawn, n_classes).sum(dim=3).permute(0, 3, 1, 2).div(8)


def sure(like: Tensor) -> Tensor:
    """A map that gives all to the class that the other finds likeliest."""
    return F.one_hot(like.argmax(dim=1), like.shape[1]).permute(0, 3, 1, 2).float()


def score_of(coarse: Tensor, refined: Tensor, median_px: int) -> Tensor:
    return query_score(coarse=coarse, refined=refined, grid_hw=GRID_HW, median_px=median_px)


def thresholds(score: Tensor) -> Iterator[float]:
    """Below all scores, at some that occur and just beside them, above all."""
    yield from (-0.5, 0.0, 1.01)
    values = score.unique()
    for value in values[:: max(1, len(values) // 5)]:
        yield float(value)
        yield float(value.nextafter(torch.tensor(2.0)))


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("eighths", [False, True])
@pytest.mark.parametrize("n_classes", CLASSES)
@pytest.mark.parametrize("median_px", SIDES)
@pytest.mark.parametrize("ratio", RATIOS)
def test_selection_is_the_published_one(ratio: int, median_px: int, n_classes: int, eighths: bool) -> None:
    coarse, refined = (maps(n_classes, ratio, seed, eighths=eighths) for seed in (1, 2))
    score = score_of(coarse, refined, median_px)
    for above in thresholds(score):
        for width in (0.0, 0.05, 0.4):
            found = select_on_grid(
                coarse=coarse, refined=refined, ratio=ratio, above=above, width=width, median_px=median_px
            )
            assert found.shape == (2, 1, *GRID_HW)
            assert_equal(spread(found, ratio), mixing_weight(score, above, width).float())


@given(
    st.integers(0, 10_000),
    st.sampled_from(RATIOS[:3]),
    st.sampled_from(SIDES),
    st.sampled_from(CLASSES),
    st.booleans(),
    st.floats(-0.125, 1.125, width=32),
    st.sampled_from([0.0, 0.01, 0.3, 2.0]),
)
def test_selection_is_the_published_one_for_anything(
    seed: int, ratio: int, median_px: int, n_classes: int, eighths: bool, above: float, width: float
) -> None:
    coarse, refined = (maps(n_classes, ratio, one, eighths=eighths) for one in (seed, seed + 1))
    found = select_on_grid(coarse=coarse, refined=refined, ratio=ratio, above=above, width=width, median_px=median_px)
    assert_equal(spread(found, ratio), mixing_weight(score_of(coarse, refined, median_px), above, width).float())


@pytest.mark.parametrize("median_px", SIDES)
def test_thresholds_select_all_a_part_and_nothing(median_px: int) -> None:
    """Otherwise the comparisons above could not fail."""
    coarse, refined = maps(3, 2, 1), maps(3, 2, 2)
    middle = float(score_of(coarse, refined, median_px).median())
    shares = [
        select_on_grid(coarse=coarse, refined=refined, ratio=2, above=above, width=0, median_px=median_px).mean()
        for above in (0.0, middle, 1.01)
    ]
    assert shares[0] == 1
    assert 0.2 < shares[1] < 0.8
    assert shares[2] == 0


scores_with_ties = st.tuples(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 14), st.integers(1, 14))


@given(scores_with_ties, st.sampled_from(SIDES), st.one_of(st.integers(-1, 7), st.floats(-0.25, 1.25, width=32)))
def test_counting_says_whether_the_median_reaches(
    drawn: tuple[int, int, int, int], side: int, above: int | float
) -> None:
    seed, steps, height, width = drawn
    x = torch.randint(0, steps + 1, (2, 1, height, width), generator=torch.Generator().manual_seed(seed)) / steps
    if isinstance(above, int):
        above = float(torch.tensor(above / steps))  # as float32 has it, so that it is met exactly
    assert torch.equal(median_reaches(x, above, side), median_blur(x, side) >= above)


@pytest.mark.parametrize("side", [3, 5, 11, 51])
def test_the_middle_of_a_window_decides(side: int) -> None:
    """One pixel less than half of the window is not enough, one more is."""
    more = side**2 // 2 + 1
    for reaching, expected in ((more - 1, False), (more, True)):
        x = torch.zeros(side**2)
        x[torch.randperm(side**2, generator=torch.Generator().manual_seed(0))[:reaching]] = 0.5
        window = x.view(1, 1, side, side)
        assert median_reaches(window, 0.5, side)[0, 0, side // 2, side // 2] == expected


@given(
    st.integers(0, 10_000),
    st.sampled_from(RATIOS[:3]),
    st.sampled_from(SIDES),
    st.sampled_from(CLASSES),
    st.booleans(),
    st.floats(-0.125, 1.125, width=32),
)
def test_what_may_be_selected_is_what_a_sure_map_would_be(
    seed: int, ratio: int, median_px: int, n_classes: int, eighths: bool, above: float
) -> None:
    coarse, refined = (maps(n_classes, ratio, one, eighths=eighths) for one in (seed, seed + 1))
    may = may_select(coarse=coarse, ratio=ratio, above=above, median_px=median_px)
    assert may.dtype == torch.bool

    def selected(other: Tensor, width: float) -> Tensor:
        return select_on_grid(
            coarse=coarse, refined=other, ratio=ratio, above=above, width=width, median_px=median_px
        ).bool()

    assert torch.equal(may, selected(sure(refined), 0))
    assert not (selected(refined, 0) & ~may).any()
    assert not (selected(refined, 0.1) & ~may).any()


@pytest.mark.parametrize("ratio", RATIOS)
def test_sampling_and_spreading_are_nearest_resizing(ratio: int) -> None:
    x = torch.rand(2, 3, GRID_HW[0] * ratio, GRID_HW[1] * ratio)
    sampled = sample(x, ratio)
    assert torch.equal(sampled, F.interpolate(x, size=GRID_HW, mode="nearest"))
    assert torch.equal(spread(sampled, ratio), F.interpolate(sampled, size=x.shape[-2:], mode="nearest"))


@pytest.mark.parametrize("points", [0, 1, 7, 100, 1000, 0.25, 0.75, 1.0, 4095, 5000])
@pytest.mark.parametrize(("ratio", "median_px"), [(1, 1), (2, 3), (4, 5)])
def test_the_best_k_are_those_of_all_pixels(points: float, ratio: int, median_px: int) -> None:
    coarse, refined = torch.randn(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(6)).mul(3).softmax(dim=2)
    refined[..., :32, :] = coarse[..., :32, :] = 1 / 3  # half of all scores are equal
    score = query_score(coarse=coarse, refined=refined, grid_hw=(64 // ratio, 64 // ratio), median_px=median_px)
    found = select_fraction_on_grid(coarse=coarse, refined=refined, ratio=ratio, points=points, median_px=median_px)
    assert torch.equal(found > 0, select_fraction(score, points))
