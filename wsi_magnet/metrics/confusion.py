"""Metrics that are functions of a confusion matrix.

A confusion matrix is int64 (..., C, C) or (..., C, C + 1): a row for each true class, a column for each predicted one,
and optionally a last column for pixels without a prediction, which are errors in every metric. Leading axes are kept,
so that the thousand matrices of a bootstrap are one call. Undefined values (0 / 0) are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Confusion = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Classes = npt.NDArray[np.integer[Any]]

UNLABELLED = -1
"""True class of an unlabelled pixel, which is not counted."""


def confusion_matrix(truth: Classes, predicted: Classes, n_classes: int) -> Confusion:
    """Counts, int64 (C, C + 1), of two arrays of one shape.

    truth: 0 to C - 1, or UNLABELLED. predicted: 0 to C - 1, or C for no prediction.
    """
    known = truth != UNLABELLED
    pairs = truth[known].astype(np.int64) * (n_classes + 1) + predicted[known]
    return np.bincount(pairs, minlength=n_classes * (n_classes + 1)).reshape(n_classes, n_classes + 1).astype(np.int64)


def class_iou(confusion: Confusion) -> Values:
    """Intersection over union of each class, (..., C); NaN for a class without true pixels."""
    hit, true, predicted = _margins(confusion)
    return np.where(true > 0, ratio(hit, true + predicted - hit), np.nan)


def mean_iou(confusion: Confusion, without: Sequence[int] = ()) -> Values:
    """Mean over the classes that have true pixels, except for those of some indices."""
    return _mean_known(_without(class_iou(confusion), without))


def frequency_weighted_iou(confusion: Confusion, without: Sequence[int] = ()) -> Values:
    """Mean of the classes' IoU, each weighted by its share of the true pixels, except for those of some indices."""
    true, iou = (_without(values, without) for values in (_margins(confusion)[1], class_iou(confusion)))
    return ratio((np.nan_to_num(iou) * true).sum(-1), true.sum(-1))


def class_dice(confusion: Confusion) -> Values:
    """Dice's coefficient of each class, which is its F1, (..., C); NaN for a class without true pixels."""
    hit, true, predicted = _margins(confusion)
    return np.where(true > 0, ratio(2 * hit, true + predicted), np.nan)


def mean_dice(confusion: Confusion, without: Sequence[int] = ()) -> Values:
    """Mean over the classes that have true pixels, except for those of some indices: macro F1."""
    return _mean_known(_without(class_dice(confusion), without))


def pixel_accuracy(confusion: Confusion) -> Values:
    """Share of the labelled pixels that are right: micro F1, where each pixel has one label."""
    hit, true, _ = _margins(confusion)
    return ratio(hit.sum(-1), true.sum(-1))


def cohen_kappa(confusion: Confusion) -> Values:
    """Cohen's kappa: agreement beyond that of chance."""
    classes, columns = confusion.shape[-2:]
    return _kappa(confusion, 1.0 - np.eye(classes, columns))


def quadratic_kappa(confusion: Confusion) -> Values:
    """Kappa whose errors weigh as the square of their distance in the order of the classes; for ordered classes only.

    A missing prediction weighs as much as the worst one.
    """
    classes, columns = confusion.shape[-2:]
    place = np.arange(classes) / max(classes - 1, 1)
    worst = np.ones((classes, columns - classes))
    return _kappa(confusion, np.hstack([np.square(place[:, None] - place), worst]))


def gleason2019_score(confusion: Confusion) -> Values:
    """The score of the Gleason 2019 challenge: kappa / 2 + (macro F1 + micro F1) / 4.

    These weights are from memory; the challenge's own statement of them could not be verified.
    """
    return cohen_kappa(confusion) / 2 + (mean_dice(confusion) + pixel_accuracy(confusion)) / 4


def ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Values:
    """Quotients of two arrays that broadcast; NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    quotients: Values = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)
    return quotients


def _margins(confusion: Confusion) -> tuple[Confusion, Confusion, Confusion]:
    """Correct, true and predicted pixels of each class, (..., C)."""
    classes = confusion.shape[-2]
    predicted = confusion[..., :classes]
    return np.diagonal(predicted, axis1=-2, axis2=-1), confusion.sum(-1), predicted.sum(-2)


def _without(values: npt.NDArray[Any], classes: Sequence[int]) -> npt.NDArray[Any]:
    """Values of the other classes, (..., C) to (..., C - len(classes))."""
    return np.delete(values, list(classes), axis=-1) if classes else values


def _mean_known(values: Values) -> Values:
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1))


def _kappa(confusion: Confusion, disagreement: Values) -> Values:
    """One minus the disagreement found over that of chance; the weights `disagreement` are (C, columns)."""
    counts = confusion.astype(np.float64)
    chance = counts.sum(-1)[..., :, None] * counts.sum(-2)[..., None, :]
    found, expected = ((weighed * disagreement).sum((-2, -1)) for weighed in (counts, chance))
    return 1.0 - ratio(found * counts.sum((-2, -1)), expected)
