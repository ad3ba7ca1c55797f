"""Numbers of a comparison: every measure of every row, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_magnet.evaluate.bootstrap import Draws, Estimate, draw, group_weights
from wsi_magnet.evaluate.columns import HALVES, Measure, measures
from wsi_magnet.evaluate.comparison import Comparison, ScoredRow
from wsi_magnet.evaluate.scoring import TOLERANCES_UM


@dataclass(frozen=True, eq=False, slots=True)
class Report:
    """All numbers of a comparison."""

    comparison: Comparison
    measures: tuple[Measure, ...]
    draws: dict[str, Draws]
    """Draws by the row's name."""
    resamples: int
    seed: int
    mean_without: tuple[str, ...] = ()
    """Names of the classes that are no part of the means."""

    @property
    def groups(self) -> int:
        """Number of groups: patients, microarrays or regions."""
        return len({image.sample.group for image in self.comparison.images})

    def measure(self, key: str) -> Measure:
        """The measure of that key."""
        return next(one for one in self.measures if one.key == key)

    def estimate(self, row: ScoredRow, key: str) -> Estimate:
        """A measure of a row."""
        return self.draws[row.name].estimate(key)

    def difference(self, row: ScoredRow, key: str) -> Estimate | None:
        """Difference to the reference row, on the same draws; None for that row itself."""
        reference = self.comparison.reference
        return None if row.name == reference else self.draws[row.name].difference(self.draws[reference], key)

    def seconds_per_megapixel(self, row: ScoredRow) -> float:
        """Seconds per megapixel of the scoring grid, over all images; NaN if not measured."""
        megapixels = sum(image.megapixels for image in self.comparison.images)
        return sum(row.seconds) / megapixels if row.seconds else float("nan")

    def labelled(self) -> Sequence[int]:
        """Labelled pixels of each scored class, over all images."""
        rows = self.comparison.rows[0].counts
        return [int(n) for n in np.sum([c.confusion.sum(axis=1) for c in rows], axis=0)]


def make_report(
    comparison: Comparison, *, resamples: int = 1000, seed: int = 0, mean_without: Sequence[str] = ()
) -> Report:
    """Compute all numbers; deterministic for the same counts and seed. Raises ConfigError; see `measures`."""
    groups = [image.sample.group for image in comparison.images]
    all_measures = measures(comparison.target.names, TOLERANCES_UM, mean_without)
    if any(row.has_halves for row in comparison.rows):
        all_measures += HALVES
    weights = group_weights(len(set(groups)), resamples, seed)
    draws = {row.name: draw(row.counts, groups, all_measures, weights) for row in comparison.rows}
    return Report(comparison, all_measures, draws, resamples, seed, tuple(mean_without))
