"""Summary of a run: areas, cells refined at each scale, and cells that could not be read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_magnet.labels import NOT_ANALYSED, LabelClass
from wsi_magnet.planning.areas import Areas
from wsi_magnet.planning.plan import Plan, ScalePlan
from wsi_magnet.results.alarms import Alarm
from wsi_magnet.results.grading import ClassArea, areas_of, summarise
from wsi_magnet.results.journal import TileResult
from wsi_magnet.storage.location import Location
from wsi_magnet.text import counted
from wsi_magnet.values import documented


@documented
@dataclass(frozen=True, slots=True, repr=False)
class RunSummary:
    """Outcome of a run; `open_result(summary.folder)` has its mask."""

    folder: Location
    """Folder of the result."""
    done_before: bool
    """True if an earlier run had finished and nothing was done."""
    failures: tuple[str, ...]
    """A line for each unreadable cell of each scale."""
    summary: Mapping[str, Any]
    """The contents of summary.json."""

    @property
    def areas(self) -> Mapping[str, ClassArea]:
        """Area of each class by its name: mm², and percent of the analysed tissue."""
        return areas_of(self.summary)

    def __repr__(self) -> str:
        areas = ", ".join(f"{one.name} {one.area_mm2:.3g} mm² ({one.percent:.1f} %)" for one in self.areas.values())
        unreadable = f"; {counted(len(self.failures), 'unreadable cell')}" if self.failures else ""
        return f"<RunSummary of {self.folder}: {areas}{unreadable}{'; done before' if self.done_before else ''}>"

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Reasons to distrust the result; none in results of older versions."""
        return Alarm.all_of(self.summary)


class RunCounts:
    """Counts of a run's finished tiles, added up as they arrive, so that the journal is not read at the end.

    Memory: a few numbers per scale, and a line per unreadable cell.
    """

    def __init__(self, plan: Plan, areas: Areas | None = None) -> None:
        """areas: those to which the run is restricted."""
        self._plan, self._areas = plan, areas
        self._regions: list[Counter[int]] = [Counter() for _ in areas.regions] if areas else []
        self._scales = [_ScaleCounts(one) for one in plan.scales]

    def add(self, result: TileResult) -> None:
        """Count a finished tile; each tile once."""
        self._scales[result.scale].add(result)
        for index, pixels in result.region_pixels.items():
            self._regions[index].update(pixels)

    @property
    def failures(self) -> tuple[str, ...]:
        """A line for each unreadable cell, with its place and reason; scale after scale, row by row."""
        return tuple(line for one in self._scales for line in one.failures())

    def summary(self, classes: Sequence[LabelClass]) -> dict[str, Any]:
        """Plain values for summary.json, the slide's name aside."""
        finest = self._scales[-1]
        areas = summarise(finest.labels, classes, finest.mpp, NOT_ANALYSED)
        return {
            "tissue_share": self._plan.tissue_share,
            **areas,
            "background_mm2": self._canvas_mm2() - areas["analysed_mm2"] - areas["not_analysed_mm2"],
            "not_looked_at_mm2": self._canvas_mm2() - finest.pixels * (finest.mpp / 1000) ** 2,
            "scales": [one.summary() for one in self._scales],
            "cells_not_analysed": finest.not_analysed,
            "cells_not_refined": sum(one.unreadable for one in self._scales[1:]),
            "not_refined_mm2": 0.0 if len(self._scales) == 1 else finest.unreadable_mm2,
            "unreadable": [{"reason": reason, "cells": cells} for reason, cells in by_reason(self.failures)],
            **({} if self._areas is None else {"regions": list(self._region_values(self._areas, classes))}),
        }

    def _region_values(self, areas: Areas, classes: Sequence[LabelClass]) -> Iterator[dict[str, Any]]:
        finest = self._plan.scales[-1].scale
        level0_mm2 = (finest.mpp / 1000) ** 2 / (finest.downsample_xy[0] * finest.downsample_xy[1])
        for one, pixels in zip(areas.regions, self._regions, strict=True):
            yield {
                "name": one.name,
                "class": one.kind,
                "region_mm2": one.outline.area * level0_mm2,
                **summarise(pixels, classes, finest.mpp, NOT_ANALYSED),
            }

    def _canvas_mm2(self) -> float:
        """Area of the mask with everything in it."""
        finest = self._plan.scales[-1].scale
        return finest.size.pixels * (finest.mpp / 1000) ** 2


class _ScaleCounts:
    """Counts of one scale."""

    def __init__(self, one: ScalePlan) -> None:
        self.mpp, self._cell_px = one.scale.mpp, one.layout.cell_px
        self.labels: Counter[int] = Counter()
        self.not_analysed = 0
        """Cells labelled 255: no scale so far could read them."""
        self._counts: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._failed: dict[tuple[int, int], str] = {}
        self._failed_pixels = 0

    def add(self, result: TileResult) -> None:
        self.labels.update(result.label_pixels)
        self._seconds.update(result.seconds)
        self._counts["tiles"] += 1
        lost = result.label_pixels.get(NOT_ANALYSED, 0)
        for cell in result.cells:
            uncertainty, pixels = (sum(part) for part in zip(*cell.quarters, strict=True))
            self._counts.update(cells=1, cells_refined=cell.refined, cells_unaffected=cell.unaffected)
            self._counts.update(uncertainty=uncertainty, pixels=pixels, changed=cell.changed_px or 0)
            self._counts.update(distances=cell.distances[0], blocks=cell.distances[1])
            self._counts.update(not_counted=cell.refined and not cell.unaffected and cell.changed_px is None)
            if cell.failure:
                self._failed[cell.row, cell.col] = cell.failure
                self._failed_pixels += pixels
            # A cell that was not analysed is uncertain everywhere; the tile's labels show whether there is one.
            self.not_analysed += bool(lost) and uncertainty == 255 * pixels

    @property
    def pixels(self) -> int:
        """Pixels of its cells."""
        return self._counts["pixels"]

    @property
    def unreadable(self) -> int:
        """Cells that could not be read at this scale."""
        return len(self._failed)

    @property
    def unreadable_mm2(self) -> float:
        """Area of these cells."""
        return self._failed_pixels * (self.mpp / 1000) ** 2

    def failures(self) -> Iterator[str]:
        for (row, col), reason in sorted(self._failed.items()):
            yield f"{self.mpp:g} µm/px, row {row}, column {col}: {reason}"

    @property
    def _changed_share(self) -> float | None:
        """Share of the pixels of all cells to which this scale gave another label; None if a tile did not count."""
        if self._counts["not_counted"]:
            return None
        return self._counts["changed"] / (self._cell_px**2 * max(1, self._counts["cells"]))

    def summary(self) -> dict[str, Any]:
        counts = self._counts
        return {
            "mpp": self.mpp,
            **{name: counts[name] for name in ("tiles", "cells", "cells_refined", "cells_unaffected")},
            "cells_unreadable": self.unreadable,
            "mean_uncertainty": counts["uncertainty"] / (255 * counts["pixels"]) if counts["pixels"] else 0.0,
            "changed_share": self._changed_share,
            "blocks_compared": counts["blocks"],
            "mean_distance": counts["distances"] / (1000 * counts["blocks"]) if counts["blocks"] else None,
            "worker_seconds": {k: round(v, 3) for k, v in self._seconds.items()},
        }


def reason_lines(failures: Iterable[str]) -> list[str]:
    """A line for each reason with its count: "30 cells could not be read: no JPEG". failures: as for `by_reason`."""
    return [f"{counted(count, 'cell')} could not be read: {reason}" for reason, count in by_reason(failures)]


def reason_key(reason: str) -> str:
    """Equal for reasons that differ in their numbers alone, such as a decoder's position in the file."""
    return re.sub(r"[0-9]+", "0", reason)


def by_reason(failures: Iterable[str]) -> list[tuple[str, int]]:
    """(Reason, cells) of lines as from `RunCounts.failures`, most cells first.

    Reasons with the same `reason_key` count as one.
    """
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for line in failures:
        place, _, reason = line.partition(": ")
        reason = reason or place
        key = reason_key(reason)
        first.setdefault(key, reason)
        counts[key] += 1
    return [(first[key], count) for key, count in counts.most_common()]
