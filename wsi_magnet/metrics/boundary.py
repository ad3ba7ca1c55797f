"""Boundary metrics within a tolerance, for thin structures that hardly change areas.

A boundary pixel has a 4-neighbour of another class; both must be labelled, so that the edge of what was annotated is no
boundary. Every pixel is on one side, hence a border between two classes is two pixels wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsi_magnet.geometry import Box
from wsi_magnet.metrics.confusion import UNLABELLED, Classes, Confusion, Values, ratio

Mask = npt.NDArray[np.bool_]


def boundary(classes: Classes) -> Mask:
    """Mask of the boundary pixels of a map of classes, bool (H, W); UNLABELLED pixels border on nothing."""
    found = np.zeros(classes.shape, bool)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = classes[here], classes[there]
        differ = (a != b) & (a != UNLABELLED) & (b != UNLABELLED)
        found[here] |= differ
        found[there] |= differ
    return found


def boundary_margin_px(tolerances_px: Sequence[float]) -> int:
    """Margin around a block in which labels must be known for exact counts."""
    return ceil(max(tolerances_px)) + 1


def boundary_counts(truth: Classes, predicted: Classes, inner: Box, tolerances_px: Sequence[float]) -> Confusion:
    """Counts that can be added up over blocks, int64 (tolerances, 4).

    truth, predicted: classes (H, W) of a block and its margin; only where truth is labelled are there boundaries.
    inner: the block within them, whose pixels are counted. The four are predicted boundary pixels near a true one, all
    of them, true boundary pixels near a predicted one, all of them; near is at most the tolerance, by Euclid.
    """
    true_edge = boundary(truth)
    predicted_edge = boundary(np.where(truth == UNLABELLED, UNLABELLED, predicted))
    predicted_gaps, true_gaps = _gaps(predicted_edge, true_edge, inner), _gaps(true_edge, predicted_edge, inner)
    rows = [
        (int((predicted_gaps <= near).sum()), predicted_gaps.size, int((true_gaps <= near).sum()), true_gaps.size)
        for near in tolerances_px
    ]
    return np.array(rows, np.int64)


def boundary_f(counts: Confusion) -> Values:
    """Harmonic mean of precision and recall of the boundary pixels, of counts (..., 4).

    0 where only one of the two maps has a boundary, NaN where neither has.
    """
    near_true, predicted, near_predicted, true = (counts[..., i].astype(np.float64) for i in range(4))
    precision, recall = np.nan_to_num(ratio(near_true, predicted)), np.nan_to_num(ratio(near_predicted, true))
    found = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
    return np.where(predicted + true > 0, found, np.nan)


def _gaps(pixels: Mask, others: Mask, inner: Box) -> Values:
    """Distance of each pixel of `pixels` within the block to the nearest of `others`; infinite without any."""
    chosen = pixels[inner.slices_yx]
    if not chosen.any() or not others.any():
        return np.full(int(chosen.sum()), np.inf)
    distances: Values = ndimage.distance_transform_edt(~others)
    return distances[inner.slices_yx][chosen]
