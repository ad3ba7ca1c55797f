"""Calibration of probabilities: of pixels with probability 0.8, four in five should be correct."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_magnet.metrics.confusion import Values, ratio

BINS = 15
"""Bins of equal width between 0 and 1, as is usual."""


def calibration_counts(confidence: npt.NDArray[np.floating[Any]], correct: npt.NDArray[np.bool_]) -> Values:
    """A histogram that can be added up, float64 (3, BINS): pixels, sum of their confidence, how many are right.

    confidence: probability of the likeliest class, 0 to 1; a bin holds its upper edge and not its lower. correct: of
    the same shape.
    """
    sure = confidence.ravel().astype(np.float64)
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    weights = (None, sure, correct.ravel().astype(np.float64))
    return np.stack([np.bincount(bins, w, minlength=BINS).astype(np.float64) for w in weights])


def expected_calibration_error(counts: Values) -> Values:
    """Mean gap between confidence and accuracy over the bins, weighted by their pixels; counts are (..., 3, BINS)."""
    pixels, sure, right = (counts[..., i, :] for i in range(3))
    return ratio(np.abs(sure - right).sum(-1), pixels.sum(-1))
