"""A refined result against its two halves, the coarsest scale alone and the finest scale alone, pixel by pixel.

Agreement is int64 (..., 2, 2, 2): labelled pixels that the coarse half, the fine half and the result have wrong (0) or
right (1), one axis each. Leading axes are kept. Undefined values (0 / 0) are NaN. The oracle always takes the half that
is right, where there is one; the headroom is its accuracy less that of the better half.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsi_magnet.metrics.confusion import UNLABELLED, Classes, Values, ratio

Agreement = npt.NDArray[np.int64]


def agreement(truth: Classes, *, coarse: Classes, fine: Classes, result: Classes) -> Agreement:
    """Counts, int64 (2, 2, 2), of arrays of one shape.

    truth: class, or UNLABELLED. The others: class, or any other number for no prediction, which is wrong.
    """
    known = truth != UNLABELLED
    coarse_right, fine_right, right = ((one == truth)[known].astype(np.int64) for one in (coarse, fine, result))
    return np.bincount(4 * coarse_right + 2 * fine_right + right, minlength=8).reshape(2, 2, 2).astype(np.int64)


def fine_alone_right(counts: Agreement) -> Values:
    """Share of the labelled pixels that the fine half has right and the coarse half wrong."""
    return ratio(counts[..., 0, 1, :].sum(-1), _pixels(counts))


def mended(counts: Agreement) -> Values:
    """Share of these that the result has right."""
    return ratio(counts[..., 0, 1, 1], counts[..., 0, 1, :].sum(-1))


def coarse_alone_right(counts: Agreement) -> Values:
    """Share of the labelled pixels that the coarse half has right and the fine half wrong."""
    return ratio(counts[..., 1, 0, :].sum(-1), _pixels(counts))


def spoiled(counts: Agreement) -> Values:
    """Share of these that the result has wrong."""
    return ratio(counts[..., 1, 0, 0], counts[..., 1, 0, :].sum(-1))


def oracle(counts: Agreement) -> Values:
    """Share of the labelled pixels that a half has right."""
    return ratio(_pixels(counts) - counts[..., 0, 0, :].sum(-1), _pixels(counts))


def headroom(counts: Agreement) -> Values:
    """Share of the headroom that the result realises; negative if it is below the better half."""
    coarse, fine = (counts[..., 1, :, :].sum((-2, -1)), counts[..., :, 1, :].sum((-2, -1)))
    better = np.maximum(coarse, fine)
    best = _pixels(counts) - counts[..., 0, 0, :].sum(-1)
    return ratio(counts[..., 1].sum((-2, -1)) - better, best - better)


def _pixels(counts: Agreement) -> Agreement:
    pixels: Agreement = counts.sum((-3, -2, -1))
    return pixels
