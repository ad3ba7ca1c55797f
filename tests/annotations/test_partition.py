"""The classes that labels distinguish, and the part of each pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.annotations.partition import partition, parts_of
from wsi_magnet.annotations.types import full_set
from wsi_magnet.metrics.confusion import UNLABELLED

some_sets = st.integers(2, 6).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(1, full_set(n)), max_size=8))
)


@pytest.mark.parametrize(
    ("sets", "n_classes", "expected"),
    [
        ([], 3, (0, 1, 2)),
        ([0b001, 0b010, 0b100], 3, (0, 1, 2)),
        ([0b110, 0b001], 3, (0, 1, 1)),
        ([0b101], 3, (0, 1, 0)),
        ([0b111], 3, (0, 1, 2)),
        ([0b0011, 0b0110], 4, (0, 0, 0, 1)),
        ([0b1100, 0b0110], 4, (0, 1, 1, 1)),
    ],
)
def test_classes_that_a_label_leaves_open_share_a_part(
    sets: list[int], n_classes: int, expected: tuple[int, ...]
) -> None:
    assert partition(sets, n_classes) == expected


def connected(sets: list[int], n_classes: int, one: int, other: int) -> bool:
    """True where a chain of sets leads from one class to the other."""
    reached = {one}
    for _ in range(n_classes):
        for labels in sets:
            members = {i for i in range(n_classes) if labels >> i & 1}
            if labels != full_set(n_classes) and members & reached:
                reached |= members
    return other in reached


@given(some_sets)
def test_parts_are_what_a_chain_of_labels_joins(made: tuple[int, list[int]]) -> None:
    n_classes, sets = made
    part_of = partition(sets, n_classes)
    for one in range(n_classes):
        for other in range(n_classes):
            assert (part_of[one] == part_of[other]) == connected(sets, n_classes, one, other)


@given(some_sets)
def test_the_order_of_the_sets_does_not_matter(made: tuple[int, list[int]]) -> None:
    n_classes, sets = made
    assert partition(sets, n_classes) == partition(sets[::-1], n_classes)


@given(some_sets)
def test_parts_are_numbered_by_their_first_class(made: tuple[int, list[int]]) -> None:
    part_of = partition(made[1], made[0])
    assert list(dict.fromkeys(part_of)) == list(range(max(part_of) + 1))


@given(some_sets)
def test_every_label_lies_in_one_part_but_the_one_that_says_nothing(made: tuple[int, list[int]]) -> None:
    n_classes, sets = made
    part_of = partition(sets, n_classes)
    found = parts_of(np.array([[*sets, full_set(n_classes)]], np.uint32), part_of)[0].tolist()
    assert found[-1] == UNLABELLED
    for labels, part in zip(sets, found, strict=False):
        assert (part == UNLABELLED) == (labels == full_set(n_classes))


def test_a_set_that_spans_parts_says_nothing() -> None:
    assert parts_of(np.array([[0b011, 0b110, 0b001]], np.uint32), (0, 1, 1)).tolist() == [[UNLABELLED, 1, 0]]


def test_the_part_keeps_the_shape() -> None:
    assert parts_of(np.ones((2, 3), np.uint32), (0, 1)).shape == (2, 3)
