"""Values that the report shows of a result, without pictures or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_magnet.errors import ResultMismatchError
from wsi_magnet.geometry import ceil_div
from wsi_magnet.labels import NOT_ANALYSED, LabelClass
from wsi_magnet.report.colours import vivid
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.grading import NOISE_MM2, PATTERNS, ClassArea, Gleason, can_grade, gleason, is_pattern
from wsi_magnet.results.journal import CellResult, History, read_history
from wsi_magnet.results.reader import Result
from wsi_magnet.results.record import RunRecord
from wsi_magnet.storage.location import Location

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ScaleUse:
    """Cells and refinement of a run at one scale."""

    mpp: float
    cells: int
    """Cells of tissue analysed so far."""
    refined: int
    """Cells among these that were read and segmented there; the others were upsampled only."""
    complete: bool
    changed_percent: float | None = None
    """Pixels to which this scale gave another label, in percent of its cells' pixels; None at the coarsest and where
    the run did not count them."""

    @property
    def percent(self) -> float:
        """Refined cells, in percent of the cells."""
        return 100 * self.refined / self.cells if self.cells else 0.0


@dataclass(frozen=True, slots=True)
class Grading:
    """The grade by area, for bundles with Gleason patterns."""

    by_rule: Gleason | None
    """None where no pattern is above the noise floor."""
    without_floor: Gleason | None
    """The grade if every pixel of a pattern counted."""


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """Everything that a page shows, except pictures."""

    source: Result
    areas: tuple[ClassArea, ...]
    analysed_mm2: float
    not_analysed_mm2: float
    failures: tuple[str, ...]
    """One line for each unreadable cell."""
    scales: tuple[ScaleUse, ...]
    """Coarse to fine."""
    refined_at: Codes
    """uint8 (rows, columns) over the finest scale's cells: 0 without tissue, n last refined by scale n - 1, 255 not
    analysed."""
    grading: Grading | None
    """None where the classes are not Gleason patterns."""

    @property
    def record(self) -> RunRecord:
        """The contents of run.json."""
        return self.source.record

    @property
    def state(self) -> str:
        """One of "running", "stopped", "finished" and "finished with errors"."""
        return self.source.state


def read_facts(folder: Location, *, count: bool = True) -> SlideFacts:
    """Read a result folder; count as for `Result`. Raises StoreError, ResultMismatchError as `Result` does."""
    source = Result(folder, count=count)
    history = read_history(ResultFolder(folder).journal)
    try:
        areas, not_analysed = tuple(source.areas.values()), source.not_analysed_mm2
        failures = source.record.failures
        scales, refined = _scales(source, history), _refined_at(source, history)
    except (LookupError, TypeError, ValueError) as error:
        raise ResultMismatchError(
            f"{folder / 'run.json'} does not fit its journal ({type(error).__name__}: {error}); rebuild the result "
            "with `wsi-magnet run --restart`"
        ) from error
    analysed = sum(area.area_mm2 for area in areas)
    return SlideFacts(
        source, areas, analysed, not_analysed, failures, scales, refined, grading(areas) if analysed else None
    )


def grading(areas: tuple[ClassArea, ...]) -> Grading | None:
    """The grade with and without the noise floor; None for classes that are not Gleason patterns."""
    if not can_grade(areas):
        return None
    by_value = {a.value: a.area_mm2 for a in areas if is_pattern(a.name, a.value)}
    present = [by_value[p] for p in PATTERNS if by_value.get(p, 0.0) > 0]
    # Apart from its floor the rule depends only on ratios of areas: enlarged, all of them are above the floor.
    enlarge = NOISE_MM2 / min(present) * 2 if present else 1.0
    return Grading(gleason(by_value), gleason({value: area * enlarge for value, area in by_value.items()}))


def _scales(source: Result, history: History) -> tuple[ScaleUse, ...]:
    uses = []
    cell_px = source.record.bundle.cell_px
    for index, scale in enumerate(source.record.scales):
        cells = [cell for tile in history.of_scale(index) for cell in tile.cells]
        refined, complete = sum(c.refined for c in cells), index in history.finished_scales
        changed = _changed_percent(cells, cell_px) if index else None
        uses.append(ScaleUse(scale.mpp, len(cells), refined, complete, changed))
    return tuple(uses)


def _changed_percent(cells: Sequence[CellResult], cell_px: int) -> float | None:
    if not cells or any(one.refined and not one.unaffected and one.changed_px is None for one in cells):
        return None
    return 100 * sum(one.changed_px or 0 for one in cells) / (len(cells) * cell_px**2)


def _refined_at(source: Result, history: History) -> Codes:
    scales, cell_px = source.record.scales, source.record.bundle.cell_px
    width, height = scales[-1].size_wh
    codes = np.zeros((ceil_div(height, cell_px), ceil_div(width, cell_px)), np.uint8)
    for index in range(len(scales)):
        side = 2 ** (len(scales) - 1 - index)
        for tile in history.of_scale(index):
            for cell in tile.cells:
                if cell.failure or cell.refined:
                    part = codes[cell.row * side : (cell.row + 1) * side, cell.col * side : (cell.col + 1) * side]
                    part[...] = NOT_ANALYSED if cell.failure else index + 1
    return codes


def shown(facts: SlideFacts) -> list[LabelClass]:
    """The classes that are drawn, in the colours they are drawn in: all but background."""
    return vivid(c for c in facts.source.classes if c.value)
