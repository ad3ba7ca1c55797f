"""Counts of one image under one method: tables that add up over images and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from wsi_magnet.annotations.partition import parts_of
from wsi_magnet.evaluate.ground_truth import OpenTruth, Target, blocks
from wsi_magnet.evaluate.halves import Halves
from wsi_magnet.evaluate.prediction import PredictedClasses, Prediction
from wsi_magnet.geometry import Box
from wsi_magnet.metrics.boundary import boundary_counts, boundary_margin_px
from wsi_magnet.metrics.calibration import BINS, calibration_counts
from wsi_magnet.metrics.confusion import UNLABELLED, Confusion, Values, confusion_matrix
from wsi_magnet.metrics.halves import Agreement, agreement
from wsi_magnet.scales import Scale


@dataclass(frozen=True, eq=False, slots=True)
class Counts:
    """Tables of one image, or of many with a leading axis."""

    confusion: Confusion
    """int64 (..., C, C + 1), true class by predicted class; the last column is "no prediction"."""
    boundary: Confusion
    """int64 (..., tolerances, 4); see `metrics.boundary`."""
    calibration: Values
    """float64 (..., 3, BINS); all 0 without probabilities."""
    agreement: Agreement = field(default_factory=lambda: np.zeros((2, 2, 2), np.int64))
    """int64 (..., 2, 2, 2), see `metrics.halves`; all 0 without halves."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.confusion + other.confusion,
            self.boundary + other.boundary,
            self.calibration + other.calibration,
            self.agreement + other.agreement,
        )

    def summed(self, weights: npt.NDArray[np.int64]) -> Counts:
        """Weighted sums over the leading axis, (G, ...) to (R, ...); weights are (R, G)."""
        return Counts(
            np.tensordot(weights, self.confusion, 1),
            np.tensordot(weights, self.boundary, 1),
            np.tensordot(weights, self.calibration, 1),
            np.tensordot(weights, self.agreement, 1),
        )

    @staticmethod
    def none(n_classes: int, n_tolerances: int) -> Counts:
        """Zero counts."""
        return Counts(
            np.zeros((n_classes, n_classes + 1), np.int64), np.zeros((n_tolerances, 4), np.int64), np.zeros((3, BINS))
        )

    @staticmethod
    def stack(several: Sequence[Counts]) -> Counts:
        """Counts stacked along a new leading axis."""
        return Counts(
            np.stack([c.confusion for c in several]),
            np.stack([c.boundary for c in several]),
            np.stack([c.calibration for c in several]),
            np.stack([c.agreement for c in several]),
        )


def count(
    truth: OpenTruth,
    scale: Scale,
    prediction: Prediction,
    target: Target,
    tolerances_um: Sequence[float],
    halves: Halves | None = None,
) -> Counts:
    """Compare a result with the annotation on the grid of `scale`, block by block; unlabelled blocks are skipped.

    halves: results of the halves on the same slide, with which it is compared too.
    """
    tolerances_px = [um / scale.mpp for um in tolerances_um]
    margin = boundary_margin_px(tolerances_px)
    total = Counts.none(len(target), len(tolerances_um))
    for block in blocks(scale):
        wide = block.grow(margin).intersect(scale.grid)
        true = parts_of(truth.sets(scale, wide), target.part_of)
        inner = block.relative_to(wide)
        here = true[inner.slices_yx]
        if not (here != UNLABELLED).any():
            continue
        predicted = prediction.read(target, scale, wide)
        counts = _count_block(true, inner, predicted, len(target), tolerances_px)
        if halves is not None:
            result = predicted.parts[inner.slices_yx]
            counts = replace(counts, agreement=_agreement(here, result, halves, target, (scale, block)))
        total += counts
    return total


def _count_block(
    true: npt.NDArray[np.int64],
    inner: Box,
    predicted: PredictedClasses,
    n_classes: int,
    tolerances_px: Sequence[float],
) -> Counts:
    """Counts of the pixels of `inner`; `true` and `predicted` include a margin."""
    here, predicted_here = true[inner.slices_yx], predicted.parts[inner.slices_yx]
    calibration = np.zeros((3, BINS))
    if predicted.confidence is not None:
        has_prediction = (here != UNLABELLED) & (predicted_here != n_classes)
        confidence = predicted.confidence[inner.slices_yx][has_prediction]
        calibration = calibration_counts(confidence, (here == predicted_here)[has_prediction])
    return Counts(
        confusion_matrix(here, predicted_here, n_classes),
        boundary_counts(true, predicted.parts, inner, tolerances_px),
        calibration,
    )


def _agreement(
    true: npt.NDArray[np.int64],
    result: npt.NDArray[np.int64],
    halves: Halves,
    target: Target,
    place: tuple[Scale, Box],
) -> Agreement:
    coarse, fine = (one.read(target, *place).parts for one in (halves.coarse, halves.fine))
    return agreement(true, coarse=coarse, fine=fine, result=result)
