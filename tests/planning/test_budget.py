"""Selection of cells: the most uncertain ones, and a budget spent where it resolves most uncertainty."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.planning.budget import Budget, choose_refined
from wsi_magnet.planning.plan import Cells


def scored(tissue: Cells, seed: int) -> dict[tuple[int, int], float]:
    rng = np.random.default_rng(seed)
    return {(r, c): float(rng.integers(0, 5)) / 4 for r, c in np.argwhere(tissue).tolist()}


@given(st.integers(0, 100), st.floats(0, 1))
def test_a_fraction_of_the_last_scale_takes_the_most_uncertain(seed: int, fraction: float) -> None:
    tissue = np.random.default_rng(seed).random((5, 7)) < 0.6
    scores = scored(tissue, seed)
    budget = Budget.of(fraction, [int(tissue.sum())], index=1, spent=0)
    refined = choose_refined(tissue, scores, fraction, 0.0, budget)
    assert not (refined & ~tissue).any()
    assert refined.sum() == np.ceil(fraction * tissue.sum() - 1e-9)
    chosen = [scores[r, c] for r, c in np.argwhere(refined).tolist()]
    left = [scores[r, c] for r, c in np.argwhere(tissue & ~refined).tolist()]
    assert not chosen or not left or min(chosen) >= max(left)


def test_with_equal_uncertainty_a_budget_is_spent_coarse_scales_first() -> None:
    cells, spent, granted = (4, 16, 64), 0, []
    for index, count in enumerate(cells, start=1):
        granted.append(Budget.of(0.25, cells, index, spent).granted([0.5] * count))
        spent += granted[-1]
    assert granted == [4, 16, 1]  # 21 of 84


def test_a_budget_follows_what_is_uncertain_down_to_the_finest_scale() -> None:
    # One cell of four is unsure: its 4 and 16 descendants are worth more than the three that are as good as certain.
    assert Budget.of(0.25, (4, 16, 64), index=1, spent=0).granted([0.8, 0.01, 0.01, 0.01]) == 1
    assert Budget.of(0.25, (4, 16, 64), index=2, spent=1).granted([0.8] * 4 + [0.01] * 12) == 4


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.floats(0, 1),
    st.integers(0, 1000),
)
def test_a_budget_is_kept_and_used_up(cells: list[int], fraction: float, seed: int) -> None:
    rng, spent = np.random.default_rng(seed), 0
    for index, count in enumerate(cells, start=1):
        uncertainty = sorted(rng.random(count).tolist(), reverse=True)
        granted = Budget.of(fraction, cells, index, spent).granted(uncertainty)
        assert 0 <= granted <= count
        spent += granted
    whole = int(np.ceil(fraction * sum(cells) - 1e-9))
    assert spent <= whole
    # The last scale takes what is left, so that only a scale that had none to give leaves some over.
    assert spent == whole or granted == cells[-1]


NO_BUDGET = Budget(0, (0,))


def test_auto_takes_those_above_the_threshold_and_all_takes_all() -> None:
    tissue = np.array([[True, True, False]])
    scores = {(0, 0): 0.2, (0, 1): 0.5}
    assert choose_refined(tissue, scores, "auto", 0.5, NO_BUDGET).tolist() == [[False, True, False]]
    assert choose_refined(tissue, {}, "all", 9.0, NO_BUDGET).tolist() == tissue.tolist()
