"""Bootstrap intervals over groups: the random sample consists of patients, not of pixels or images.

All rows of a table use the same draws, so their differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_magnet.evaluate.columns import Measure
from wsi_magnet.evaluate.counts import Counts
from wsi_magnet.metrics.confusion import Values

LEVEL = 95.0
"""Level of an interval, in percent: between percentiles 2.5 and 97.5."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float
    """Both NaN with fewer than two groups."""


@dataclass(frozen=True, eq=False, slots=True)
class Draws:
    """Every measure of one row, over all images and in each resample."""

    value: dict[str, float]
    """Values by the measure's key."""
    resampled: dict[str, Values]
    """The measure in each resample, float64 (R,); empty with fewer than two groups."""

    def estimate(self, key: str) -> Estimate:
        """A measure with its interval."""
        return Estimate(self.value[key], *_interval(self.resampled[key]))

    def difference(self, other: Draws, key: str) -> Estimate:
        """Difference of a measure to another row, on the same draws."""
        drawn = self.resampled[key] - other.resampled[key]
        return Estimate(self.value[key] - other.value[key], *_interval(drawn))


def group_weights(n_groups: int, resamples: int, seed: int) -> npt.NDArray[np.int64]:
    """Number of times each group is drawn, int64 (resamples, groups): with replacement, as many draws as groups."""
    if n_groups < 2:
        return np.zeros((0, n_groups), np.int64)
    chances = np.full(n_groups, 1 / n_groups)
    return np.random.default_rng(seed).multinomial(n_groups, chances, size=resamples).astype(np.int64)


def draw(
    counts: Sequence[Counts], groups: Sequence[str], measures: Sequence[Measure], weights: npt.NDArray[np.int64]
) -> Draws:
    """Add up the images' counts by group, and compute every measure of every resample.

    counts, groups: one per image. weights: from `group_weights`, for the groups in the order of their names.
    """
    images = Counts.stack(counts)
    names = sorted(set(groups))
    membership = np.array([[int(group == name) for group in groups] for name in names], np.int64)
    by_group = images.summed(membership)
    total = by_group.summed(np.ones((1, len(names)), np.int64))
    resampled = by_group.summed(weights)
    return Draws(
        {one.key: float(one.value(total)[0]) for one in measures},
        {one.key: one.value(resampled) for one in measures},
    )


def _interval(values: Values) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    outside = (100 - LEVEL) / 2
    low, high = np.percentile(known, [outside, 100 - outside])
    return float(low), float(high)
