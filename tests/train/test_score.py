"""The score of early stopping: mIoU over what the labels tell apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsi_magnet.train.score import ConfusionCounts, block_counts


def sure(labels: list[list[int]], n_classes: int) -> Tensor:
    """Probabilities (1, C, H, W) that are sure of these classes."""
    return torch.nn.functional.one_hot(torch.tensor(labels), n_classes).permute(2, 0, 1)[None].float()


def sets_of(labels: list[list[int]]) -> npt.NDArray[np.uint32]:
    """Sets of one class each."""
    return np.asarray(np.left_shift(1, np.array(labels)), np.uint32)


def slow_miou(predicted: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    ious = [
        ((predicted == one) & (truth == one)).sum() / ((predicted == one) | (truth == one)).sum()
        for one in np.unique(truth)
    ]
    return float(np.mean(ious))


@given(st.integers(0, 10**6), st.integers(2, 5))
def test_the_score_is_what_its_twin_says(seed: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    maps = torch.tensor(rng.random((1, n_classes, 5, 6)))
    truth = rng.integers(0, n_classes, (5, 6))
    scorer = ConfusionCounts(tuple(range(n_classes)))
    scorer.add(maps, sets_of(truth.tolist()))
    assert scorer.miou == pytest.approx(slow_miou(maps[0].argmax(dim=0).numpy(), truth))


def test_a_class_that_the_truth_lacks_does_not_count_but_for_the_pixels_it_takes() -> None:
    scorer = ConfusionCounts((0, 1, 2))
    scorer.add(sure([[0, 0, 1, 2]], 3), sets_of([[0, 0, 1, 1]]))
    assert scorer.miou == pytest.approx((1 + 1 / 2) / 2)


def test_what_is_not_labelled_does_not_count() -> None:
    sets = sets_of([[0, 1, 1]])
    sets[0, 2] = 0b11
    scorer = ConfusionCounts((0, 1))
    scorer.add(sure([[0, 1, 0]], 2), sets)
    assert scorer.miou == 1


def test_probabilities_of_classes_that_no_label_parts_are_summed() -> None:
    maps = torch.tensor([0.4, 0.3, 0.3]).view(1, 3, 1, 1)
    scorer = ConfusionCounts((0, 1, 1))
    scorer.add(maps, np.array([[0b110]], np.uint32))
    assert scorer.miou == 1


def test_counts_add_up_over_maps() -> None:
    scorer = ConfusionCounts((0, 1))
    for predicted, truth in (([[0, 0]], [[0, 1]]), ([[1, 1]], [[1, 1]])):
        scorer.add(sure(predicted, 2), sets_of(truth))
    assert scorer.counts.tolist() == [[1, 0], [1, 2]]


def test_nothing_counted_is_nothing() -> None:
    assert ConfusionCounts((0, 1)).miou == 0


@given(st.integers(0, 10**6))
def test_counts_of_blocks_are_those_of_each_block_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    part_of, maps = (0, 1, 1), torch.tensor(rng.random((1, 3, 6, 9)))
    sets = rng.choice(np.array([0b001, 0b010, 0b110, 0b111], np.uint32), (6, 9))
    found = block_counts(maps, sets, part_of, 3)
    for number, (row, col) in enumerate((row, col) for row in (0, 3) for col in (0, 3, 6)):
        alone = ConfusionCounts(part_of)
        alone.add(maps[..., row : row + 3, col : col + 3], sets[row : row + 3, col : col + 3])
        assert found[number].tolist() == alone.counts.tolist()
