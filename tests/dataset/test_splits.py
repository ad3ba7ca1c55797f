"""Splits: whole groups, by a seed, so near to the fractions that nothing can be moved or swapped to come nearer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.dataset.sample import SPLITS, Split
from wsi_magnet.dataset.splits import FRACTIONS, assign_splits
from wsi_magnet.errors import ManifestError

GROUPS = st.dictionaries(st.text("abc123", min_size=1, max_size=4), st.integers(1, 30), min_size=1, max_size=12)


def distance(groups: Mapping[str, int], splits: Mapping[str, Split]) -> float:
    """The slow, obvious measure: squared differences between what each split has and what it should have."""
    total = sum(groups.values())
    have = {split: sum(n for name, n in groups.items() if splits[name] == split) for split in SPLITS}
    return sum((have[split] - share * total) ** 2 for split, share in zip(SPLITS, FRACTIONS, strict=True))


@given(GROUPS, st.integers(0, 5))
def test_every_group_has_one_split_and_none_is_empty_where_there_are_three(groups: dict[str, int], seed: int) -> None:
    splits = assign_splits(groups, seed=seed)
    assert set(splits) == set(groups)
    assert len(set(splits.values())) == min(len(groups), 3)


@given(GROUPS, st.integers(0, 5))
def test_no_group_can_be_moved_or_swapped_to_come_nearer(groups: dict[str, int], seed: int) -> None:
    splits = assign_splits(groups, seed=seed)
    best = distance(groups, splits)
    for name, other in permutations(groups, 2):
        swapped = splits | {name: splits[other], other: splits[name]}
        assert distance(groups, swapped) >= best - 1e-6
    for name in groups:
        for split in SPLITS:
            moved = splits | {name: split}
            if len(set(moved.values())) == len(set(splits.values())):
                assert distance(groups, moved) >= best - 1e-6


@given(GROUPS)
def test_the_order_of_the_groups_does_not_matter(groups: dict[str, int]) -> None:
    assert assign_splits(dict(reversed(groups.items())), seed=3) == assign_splits(groups, seed=3)


def test_equal_groups_are_parted_exactly() -> None:
    splits = list(assign_splits({f"P{i}": 1 for i in range(100)}).values())
    assert [splits.count(split) for split in SPLITS] == [70, 15, 15]


def test_another_seed_gives_another_split() -> None:
    groups = {f"P{i}": i + 1 for i in range(20)}
    assert len({tuple(sorted(assign_splits(groups, seed=seed).items())) for seed in range(8)}) > 4


def test_a_large_group_goes_to_train() -> None:
    assert assign_splits({"large": 100, "a": 1, "b": 1})["large"] == "train"


def test_a_split_of_fraction_zero_stays_empty() -> None:
    assert "test" not in assign_splits({f"P{i}": i + 1 for i in range(9)}, (0.8, 0.2, 0)).values()


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (1, -0.1, 0.1), (0, 0, 0), (0, 0.5, 0.5), (float("nan"), 1, 1)])
def test_fractions_that_cannot_be_meant_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ManifestError, match="fraction"):
        assign_splits({"a": 1}, fractions)


def test_a_group_without_samples_is_refused() -> None:
    with pytest.raises(ManifestError, match="group 'a' has 0 samples"):
        assign_splits({"a": 0})
