"""What came of a run: areas, what each scale did, and what could not be analysed, from the journal alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_magnet.labels import NOT_ANALYSED, LabelClass
from wsi_magnet.planning.plan import Plan, ScalePlan
from wsi_magnet.results.grading import summarise
from wsi_magnet.results.journal import History
from wsi_magnet.storage.location import Location


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended."""

    folder: Location
    done_before: bool
    """True where it was finished already and nothing was done."""
    failures: tuple[str, ...]
    """A line for each cell that could not be read at a scale."""
    summary: Mapping[str, Any]
    """The contents of summary.json."""


def summarise_run(plan: Plan, history: History, classes: Sequence[LabelClass]) -> dict[str, Any]:
    """Plain values for summary.json, the slide's name aside."""
    finest = plan.ladder.finest
    labels: Counter[int] = Counter()
    for result in history.of_scale(finest.index):
        labels.update(result.label_pixels)
    return {
        "tissue_share": plan.tissue_share,
        **summarise(labels, classes, finest.mpp, NOT_ANALYSED),
        "scales": [_pass_summary(p, history) for p in plan.passes],
        "cells_not_analysed": len(failures(history, plan.passes)),
    }


def failures(history: History, passes: tuple[ScalePlan, ...]) -> list[str]:
    """A line for each cell that could not be read at a scale: where, and why."""
    return [
        f"{passes[result.scale].scale.mpp:g} µm/px, row {cell.row}, column {cell.col}: {cell.failure}"
        for result in history.tiles.values()
        for cell in result.cells
        if cell.failure
    ]


def by_reason(failures: Iterable[str]) -> list[tuple[str, int]]:
    """(Reason, cells) of lines as from `failures`, most cells first.

    Reasons that differ in their numbers alone, such as a decoder's position in the file, count as one.
    """
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for line in failures:
        place, _, reason = line.partition(": ")
        reason = reason or place
        key = re.sub(r"[0-9]+", "0", reason)
        first.setdefault(key, reason)
        counts[key] += 1
    return [(first[key], count) for key, count in counts.most_common()]


def _pass_summary(one: ScalePlan, history: History) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for result in history.of_scale(one.scale.index):
        seconds.update(result.seconds)
        counts["tiles"] += 1
        for cell in result.cells:
            counts["cells"] += 1
            counts["cells_refined"] += cell.refined
            counts["cells_certain"] += cell.unread
            counts["uncertainty"] += sum(total for total, _ in cell.quarters)
            counts["pixels"] += sum(pixels for _, pixels in cell.quarters)
    return {
        "mpp": one.scale.mpp,
        **{name: counts[name] for name in ("tiles", "cells", "cells_refined", "cells_certain")},
        "mean_uncertainty": counts["uncertainty"] / (255 * counts["pixels"]) if counts["pixels"] else 0.0,
        "worker_seconds": {k: round(v, 3) for k, v in seconds.items()},
    }
