"""Metrics: held against scikit-learn, against slow twins, and against themselves added up."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import calibration as sk_calibration
from sklearn import metrics as sk

from wsi_magnet.geometry import Box
from wsi_magnet.metrics.boundary import boundary, boundary_counts, boundary_f, boundary_margin_px
from wsi_magnet.metrics.calibration import BINS, calibration_counts, expected_calibration_error
from wsi_magnet.metrics.confusion import (
    UNLABELLED,
    class_dice,
    class_iou,
    cohen_kappa,
    confusion_matrix,
    frequency_weighted_iou,
    gleason2019_score,
    mean_dice,
    mean_iou,
    pixel_accuracy,
    quadratic_kappa,
)

Ints = npt.NDArray[np.int64]


def matrices(columns: int = 0) -> st.SearchStrategy[Ints]:
    """Confusion matrices of 2 to 5 classes, with so many columns more, that hold a pixel at least."""
    shapes = st.integers(2, 5).map(lambda n: (n, n + columns))
    return shapes.flatmap(lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(0, 9))).filter(np.any)


def spread(confusion: Ints) -> tuple[Ints, Ints]:
    """The pixels that a matrix counts: true classes and answers."""
    true, answers = np.indices(confusion.shape)
    return np.repeat(true.ravel(), confusion.ravel()), np.repeat(answers.ravel(), confusion.ravel())


def same(ours: Any, theirs: Any) -> bool:
    return bool(np.allclose(ours, theirs, rtol=0, atol=1e-12, equal_nan=True))


@given(matrices())
def test_a_matrix_counts_pairs(confusion: Ints) -> None:
    n = len(confusion)
    counted = confusion_matrix(*spread(confusion), n)
    assert np.array_equal(counted[:, :n], sk.confusion_matrix(*spread(confusion), labels=range(n)))
    assert np.array_equal(counted, np.hstack([confusion, np.zeros((n, 1), np.int64)]))


def test_unlabelled_pixels_count_nowhere_and_no_answer_has_its_own_column() -> None:
    truth, answers = np.array([0, 1, UNLABELLED, 1]), np.array([0, 2, 1, 0])
    assert confusion_matrix(truth, answers, 2).tolist() == [[1, 0, 0], [1, 0, 1]]


@given(matrices())
def test_iou_is_the_jaccard_score(confusion: Ints) -> None:
    true, answers = spread(confusion)
    known = np.unique(true)
    by_class = sk.jaccard_score(true, answers, labels=known, average=None, zero_division=0)
    assert same(class_iou(confusion)[known], by_class)
    assert same(mean_iou(confusion), by_class.mean())
    assert same(frequency_weighted_iou(confusion), sk.jaccard_score(true, answers, average="weighted", zero_division=0))


@given(matrices())
def test_dice_is_the_f1_score(confusion: Ints) -> None:
    true, answers = spread(confusion)
    known = np.unique(true)
    by_class = sk.f1_score(true, answers, labels=known, average=None, zero_division=0)
    assert same(class_dice(confusion)[known], by_class)
    assert same(mean_dice(confusion), by_class.mean())


@given(matrices())
def test_accuracy_is_micro_f1(confusion: Ints) -> None:
    true, answers = spread(confusion)
    assert same(pixel_accuracy(confusion), sk.accuracy_score(true, answers))
    assert same(pixel_accuracy(confusion), sk.f1_score(true, answers, average="micro"))


@given(matrices().filter(lambda m: len(np.unique(np.concatenate(spread(m)))) > 1))
def test_kappas_are_those_of_the_library(confusion: Ints) -> None:
    true, answers = spread(confusion)
    labels = range(len(confusion))
    assert same(cohen_kappa(confusion), sk.cohen_kappa_score(true, answers, labels=labels))
    assert same(quadratic_kappa(confusion), sk.cohen_kappa_score(true, answers, labels=labels, weights="quadratic"))


@given(matrices(columns=1))
def test_no_answer_is_an_error_like_that_of_a_class_which_nothing_is(confusion: Ints) -> None:
    square = np.vstack([confusion, np.zeros(confusion.shape[1], np.int64)])
    for metric in (mean_iou, frequency_weighted_iou, mean_dice, pixel_accuracy, cohen_kappa, gleason2019_score):
        assert same(metric(confusion), metric(square)), metric.__name__


@given(hnp.arrays(np.int64, (2, 3), elements=st.integers(0, 9)))
def test_of_two_classes_both_kappas_are_one_whether_answered_or_not(confusion: Ints) -> None:
    assert same(quadratic_kappa(confusion), cohen_kappa(confusion))


@given(st.lists(hnp.arrays(np.int64, (3, 4), elements=st.integers(0, 9)), min_size=1, max_size=4))
def test_many_matrices_are_as_one_after_the_other(several: list[Ints]) -> None:
    for metric in (class_iou, mean_iou, class_dice, frequency_weighted_iou, cohen_kappa, quadratic_kappa):
        assert same(metric(np.stack(several)), np.stack([metric(one) for one in several])), metric.__name__


def test_the_mean_is_over_classes_that_are_there() -> None:
    assert mean_iou(np.array([[6, 0, 2], [0, 8, 0], [0, 0, 0]])) == pytest.approx((6 / 8 + 1) / 2)


@given(hnp.arrays(np.int64, (4, 5), elements=st.integers(0, 9)), st.sets(st.integers(0, 3), max_size=3))
def test_means_may_leave_classes_out_whose_pixels_still_count(confusion: Ints, without: set[int]) -> None:
    kept = [i for i in range(4) if i not in without]
    iou, dice, true = class_iou(confusion)[kept], class_dice(confusion)[kept], confusion.sum(axis=1)[kept]
    known = true > 0
    expected = (iou[known].mean(), dice[known].mean()) if known.any() else (np.nan, np.nan)
    assert same(mean_iou(confusion, sorted(without)), expected[0])
    assert same(mean_dice(confusion, sorted(without)), expected[1])
    weighted = (iou[known] * true[known]).sum() / true.sum() if known.any() else np.nan
    assert same(frequency_weighted_iou(confusion, sorted(without)), weighted)


def test_nothing_can_be_said_of_nothing() -> None:
    for metric in (mean_iou, frequency_weighted_iou, mean_dice, pixel_accuracy, cohen_kappa, quadratic_kappa):
        assert np.isnan(metric(np.zeros((3, 3), np.int64))), metric.__name__


def test_the_score_of_the_challenge_by_hand() -> None:
    # Accuracy 0.8, chance 0.5: kappa 0.6; F1 of both classes 0.8.
    assert gleason2019_score(np.array([[4, 1], [1, 4]])) == pytest.approx(0.6 / 2 + (0.8 + 0.8) / 4)


sure = hnp.arrays(np.float64, 60, elements=st.floats(0.01, 1))
right = hnp.arrays(np.bool_, 60)


@given(sure, right)
def test_calibration_counts_are_those_of_the_library(confidence: npt.NDArray[np.float64], correct: Any) -> None:
    counts = calibration_counts(confidence, correct)
    filled = counts[0] > 0
    hits, means = sk_calibration.calibration_curve(correct, confidence, n_bins=BINS)
    edges = np.linspace(0, 1, BINS + 1)
    if np.abs(confidence[:, None] - edges).min() < 1e-9:
        return  # on an edge the two may round to either side
    assert same(counts[2][filled] / counts[0][filled], hits)
    assert same(counts[1][filled] / counts[0][filled], means)


@given(sure, right)
def test_calibration_error_has_a_slow_twin(confidence: npt.NDArray[np.float64], correct: Any) -> None:
    error = 0.0
    for i in range(BINS):
        chosen = np.ceil(confidence * BINS) == i + 1
        if chosen.any():
            error += chosen.mean() * abs(confidence[chosen].mean() - correct[chosen].mean())
    assert expected_calibration_error(calibration_counts(confidence, correct)) == pytest.approx(error)


def test_who_is_always_right_and_sure_is_calibrated() -> None:
    assert expected_calibration_error(calibration_counts(np.ones(9), np.ones(9, bool))) == 0


def test_full_confidence_of_half_right_is_half_off() -> None:
    assert expected_calibration_error(calibration_counts(np.ones(4), np.array([True, False] * 2))) == 0.5


maps = hnp.arrays(np.int64, (24, 29), elements=st.integers(-1, 2))


def test_a_boundary_lies_on_both_sides_of_it_and_never_on_unlabelled_ground() -> None:
    classes = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [-1, -1, -1, -1], [1, 1, 1, 0]])
    expected = [[False, True, True, False]] * 2 + [[False] * 4, [False, False, True, True]]
    assert boundary(classes).tolist() == expected


@given(maps, maps.map(lambda m: np.abs(m)), st.sampled_from([1.0, 2.3, 4.0]))
def test_boundary_counts_have_a_slow_twin(truth: Ints, told: Ints, tolerance: float) -> None:
    true = np.argwhere(boundary(truth))
    answered = np.argwhere(boundary(np.where(truth == UNLABELLED, UNLABELLED, told)))

    def near(ones: Ints, others: Ints) -> int:
        return sum(1 for one in ones if len(others) and np.hypot(*(others - one).T).min() <= tolerance)

    expected = [near(answered, true), len(answered), near(true, answered), len(true)]
    assert boundary_counts(truth, told, Box(0, 0, 29, 24), [tolerance]).tolist() == [expected]


@given(maps, maps.map(lambda m: np.abs(m)), st.integers(5, 12))
def test_blocks_with_their_margin_count_as_the_whole(truth: Ints, told: Ints, side: int) -> None:
    tolerances = [1.0, 3.7]
    grid = Box(0, 0, 29, 24)
    total = np.zeros((2, 4), np.int64)
    for y in range(0, 24, side):
        for x in range(0, 29, side):
            block = Box(x, y, x + side, y + side).intersect(grid)
            wide = block.grow(boundary_margin_px(tolerances)).intersect(grid)
            inner = block.relative_to(wide)
            total += boundary_counts(truth[wide.slices_yx], told[wide.slices_yx], inner, tolerances)
    assert np.array_equal(total, boundary_counts(truth, told, grid, tolerances))


def test_a_border_beside_its_place_is_found_within_the_tolerance_only() -> None:
    truth, told = (np.repeat((np.arange(40) >= edge).astype(int)[None], 20, 0) for edge in (20, 23))
    found = boundary_f(boundary_counts(truth, told, Box(0, 0, 40, 20), [1, 2, 3]))
    assert found.tolist() == [0, 0.5, 1]


def test_a_boundary_that_is_missing_or_made_up_is_worth_nothing() -> None:
    assert boundary_f(np.array([[0, 9, 0, 0], [0, 0, 0, 9]])).tolist() == [0, 0]
    assert np.isnan(boundary_f(np.array([0, 0, 0, 0])))
