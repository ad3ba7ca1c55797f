"""Selection of pixels: k counted, the best taken, ties settled the same way everywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsi_magnet.errors import ConfigError
from wsi_magnet.magnet.selection import count_points, mixing_weight, select_fraction, select_threshold


def scores(values: list[float]) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def chosen(selected: Tensor) -> list[int]:
    return selected.flatten().nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("points", "k"), [(0, 0), (0.25, 25), (0.75, 75), (1.0, 100), (1.5, 1), (2, 2), (99, 99), (32_768, 100)]
)
def test_up_to_1_points_are_a_share_and_above_a_number(points: float, k: int) -> None:
    assert count_points(points, 100) == k


@pytest.mark.parametrize("points", [-0.1, float("nan")])
def test_points_that_are_neither_are_refused(points: float) -> None:
    with pytest.raises(ConfigError, match="points"):
        select_fraction(scores([1, 2]), points)


def test_the_best_are_chosen() -> None:
    assert chosen(select_fraction(scores([0.1, 0.9, 0.3, 0.8]), 2)) == [1, 3]
    assert chosen(select_fraction(scores([0.1, 0.9, 0.3, 0.8]), 0.75)) == [1, 2, 3]
    assert chosen(select_fraction(scores([0.1, 0.9, 0.3, 0.8]), 1.0)) == [0, 1, 2, 3]


def test_of_equals_the_first_are_chosen() -> None:
    assert chosen(select_fraction(scores([0.5, 0.2, 0.5, 0.9, 0.5]), 3)) == [0, 2, 3]


def test_only_valid_pixels_are_chosen_and_counted() -> None:
    valid = torch.tensor([True, False, True, False]).view(1, 1, 1, 4)
    assert chosen(select_fraction(scores([0.1, 0.9, 0.3, 0.8]), 0.5, valid)) == [2]
    assert chosen(select_fraction(scores([0.1, 0.9, 0.3, 0.8]), 100, valid)) == [0, 2]


def test_each_image_has_its_own_best() -> None:
    score = torch.tensor([[0.1, 0.2, 0.3, 0.4], [9.0, 8.0, 7.0, 6.0]]).view(2, 1, 2, 2)
    selected = select_fraction(score, 1 / 4)
    assert chosen(selected[0]) == [3]
    assert chosen(selected[1]) == [0]


def test_the_threshold_itself_is_chosen() -> None:
    assert chosen(select_threshold(scores([0.1, 0.2, 0.3]), 0.2)) == [1, 2]


def test_without_a_width_the_selection_is_the_hard_one() -> None:
    weight = mixing_weight(scores([0.1, 0.2, 0.3]), 0.2, 0.0)
    assert weight.dtype == torch.bool
    assert chosen(weight) == [1, 2]


def test_with_a_width_weights_rise_from_the_threshold_to_all() -> None:
    weight = mixing_weight(scores([0.0, 0.2, 0.3, 0.4, 0.9]), 0.2, 0.2)
    torch.testing.assert_close(weight.flatten(), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


def test_a_negative_width_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"-0\.1 wide; give 0"):
        mixing_weight(scores([0.5]), 0.2, -0.1)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.floats(0, 0.9), st.floats(0.01, 1))
def test_weights_are_shares_that_grow_with_the_score(values: list[float], above: float, width: float) -> None:
    weight = mixing_weight(scores(sorted(values)), above, width).flatten()
    assert 0 <= weight.min() <= weight.max() <= 1
    assert (weight.diff() >= 0).all()


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60),
    st.one_of(st.floats(0, 1), st.integers(2, 80)),
)
def test_the_choice_is_what_sorting_says(pixels: list[tuple[int, bool]], points: float) -> None:
    values, allowed = zip(*pixels, strict=True)
    valid = torch.tensor(allowed).view(1, 1, 1, -1)
    k = count_points(points, sum(allowed))
    # Python's sort is stable: among equals the first comes first.
    ranked = sorted((i for i, a in enumerate(allowed) if a), key=lambda i: -values[i])
    assert chosen(select_fraction(scores([float(v) for v in values]), points, valid)) == sorted(ranked[:k])
