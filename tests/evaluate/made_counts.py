"""Comparisons of made-up counts, for tables, pages and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.evaluate.made import sample_of
from wsi_magnet.evaluate.comparison import Comparison, ScoredRow
from wsi_magnet.evaluate.counts import Counts
from wsi_magnet.evaluate.ground_truth import Target
from wsi_magnet.evaluate.halves import is_half
from wsi_magnet.evaluate.scoring import TOLERANCES_UM, ScoredImage
from wsi_magnet.evaluate.worker import PeakMemory
from wsi_magnet.metrics.calibration import BINS

TARGET = Target((0, 1), ("stroma", "gland"), ((200, 0, 0), (0, 0, 200)))


def made_comparison(names: Sequence[str], images: int = 6, *, timed: bool = True) -> Comparison:
    """Rows with these names on images of a group each; all numbers are drawn at random, the same for each call."""
    rng = np.random.default_rng(7)
    scored = tuple(
        ScoredImage(sample_of(Path(f"/made/image{i}.png"), row=2 + i, group=f"patient {i}"), "image", 0.5, 0.25)
        for i in range(images)
    )
    rows = tuple(
        ScoredRow(
            name,
            "made",
            tuple(counts(rng, halves=not is_half(name)) for _ in scored),
            tuple(0.1 * (1 + place) for _ in scored) if timed else None,
            PeakMemory(500_000_000 + place * 10**6, None) if timed else None,
            None,
        )
        for place, name in enumerate(names)
    )
    return Comparison(scored, TARGET, rows, "MagNet" if "MagNet" in names else names[-1])


def counts(rng: np.random.Generator, *, halves: bool) -> Counts:
    """Counts of an image."""
    return Counts(
        rng.integers(1, 100, (2, 3)) + 300 * np.eye(2, 3, dtype=np.int64),
        rng.integers(1, 50, (len(TOLERANCES_UM), 4)),
        rng.random((3, BINS)),
        rng.integers(1, 50, (2, 2, 2)) if halves else np.zeros((2, 2, 2), np.int64),
    )
