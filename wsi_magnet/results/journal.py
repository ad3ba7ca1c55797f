"""Journal of a run: a line of JSON for each finished tile and scale, appended by the process that coordinates the run.

Resuming is a set difference. Only whole lines count: a power failure may tear the last one, and its tile is then
computed again. Journals of 0.1.0 say "pass" for a finished "scale".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from wsi_magnet.config import CELL_SIDES_PX
from wsi_magnet.storage.append_log import open_lines, read_lines
from wsi_magnet.storage.location import Location
from wsi_magnet.values import documented

Quarters = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
"""(sum, pixels) of the uncertainty, 0..255, in a cell's quarters: upper left, upper right, lower left, lower right."""


Distances = tuple[int, int]
"""(sum, blocks) of the distances of a cell's blocks with tissue, in thousandths."""


@documented
@dataclass(frozen=True, slots=True)
class CellResult:
    """The journal's record of a cell, with the uncertainty of its quarters, which are the next scale's cells."""

    row: int
    """Row of the cell."""
    col: int
    """Column of the cell."""
    refined: bool
    """False where the coarser result was only upsampled, and where the cell could not be read."""
    quarters: Quarters
    """Sum of uncertainty (255 = 1) and pixels of each quarter, row by row."""
    failure: str | None = None
    """Reason why the cell is unreadable at this scale; its coarser result stays, or 255 if there is none."""
    unaffected: bool = False
    """True where it was to be refined and was not read, because no pixel could have changed its result."""
    changed_px: int | None = None
    """Pixels of the whole cell to which refinement gave another label, also beyond the grid's edge; None in journals
    of versions that did not count them."""
    distances: Distances = (0, 0)
    """Distances from the training data, where the bundle knows it."""


@documented
@dataclass(frozen=True, slots=True)
class TileResult:
    """Report of a worker on a finished tile, whose pixels are already stored."""

    scale: int
    """Index of the scale, 0 = coarsest."""
    row: int
    """Row of the tile."""
    col: int
    """Column of the tile."""
    cells: tuple[CellResult, ...]
    """Records of its cells."""
    label_pixels: Mapping[int, int]
    """Pixels by label value, over the tile's analysed cells."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent in "read", "compute", "write", and in "total"."""
    worker: str = ""
    """Name of the worker."""
    region_pixels: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    """Of each region by its number: pixels by label value; at the finest scale alone."""

    @property
    def key(self) -> tuple[int, int, int]:
        """(scale, tile row, tile column)."""
        return self.scale, self.row, self.col

    def to_json(self) -> dict[str, Any]:
        """Plain values, short: a slide has thousands."""
        return {
            "tile": list(self.key),
            "cells": list(map(_cell_json, self.cells)),
            "labels": {str(k): v for k, v in self.label_pixels.items()},
            "s": {k: round(v, 4) for k, v in self.seconds.items()},
            "worker": self.worker,
            **({"regions": _regions_json(self.region_pixels)} if self.region_pixels else {}),
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> TileResult:
        """The inverse of `to_json`; raises KeyError, TypeError, ValueError or AttributeError for anything else."""
        cells = tuple(map(_cell, entry["cells"]))
        labels = {int(k): _count(v) for k, v in entry["labels"].items()}
        scale, row, col = map(_count, entry["tile"])
        seconds = {str(k): float(v) for k, v in entry["s"].items()}
        regions = {
            int(index): {int(k): _count(v) for k, v in counts.items()}
            for index, counts in entry.get("regions", {}).items()
        }
        return TileResult(scale, row, col, cells, labels, seconds, str(entry["worker"]), regions)


def _regions_json(regions: Mapping[int, Mapping[int, int]]) -> dict[str, dict[str, int]]:
    return {str(index): {str(k): v for k, v in counts.items()} for index, counts in regions.items()}


def _cell_json(cell: CellResult) -> list[Any]:
    quarters = [list(quarter) for quarter in cell.quarters]
    counts = [cell.changed_px, *(cell.distances if cell.distances[1] else ())]
    return [cell.row, cell.col, cell.refined + cell.unaffected, quarters, cell.failure, *counts]


def _cell(entry: Sequence[Any]) -> CellResult:
    row, col, treatment, quarters, failure, *counts = entry  # 0: upsampled only, 1: refined, 2: refined and unaffected
    changed, *distances = counts or [None]
    total, blocks = map(_count, distances or (0, 0))
    sums: Any = tuple((_count(total), _count(pixels)) for total, pixels in quarters)
    if len(sums) != 4 or any(total > 255 * pixels or pixels > _QUARTER_PX for total, pixels in sums):
        raise ValueError("no sums of four quarters")
    if not (failure is None or isinstance(failure, str)) or treatment not in (0, 1, 2):
        raise ValueError("no treatment or no reason")
    changed_px = None if changed is None else _count(changed)
    return CellResult(
        _count(row), _count(col), bool(treatment), sums, failure, treatment == 2, changed_px, (total, blocks)
    )


_QUARTER_PX = (max(CELL_SIDES_PX) // 2) ** 2
"""Pixels of the quarter of a cell, at most."""


def _count(value: Any) -> int:
    """A whole number of at least 0; raises ValueError for anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


Key = tuple[int, int, int]
"""(scale, tile row, tile column)."""


class Tiles(Mapping[Key, TileResult]):
    """Results kept as their lines, in a tenth of the memory, and parsed on access: a slide may have 100,000."""

    def __init__(self, lines: dict[Key, bytes]) -> None:
        self._lines = lines

    def up_to(self, scale: int) -> Tiles:
        """The results of this scale and coarser ones."""
        return Tiles({key: line for key, line in self._lines.items() if key[0] <= scale})

    def __getitem__(self, key: Key) -> TileResult:
        return TileResult.from_json(json.loads(self._lines[key]))

    def __iter__(self) -> Iterator[Key]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


@dataclass(frozen=True)
class History:
    """Content of a journal."""

    tiles: Tiles
    finished_scales: frozenset[int]
    """Scales that are complete, their pyramid included."""

    def keys(self, scale: int) -> list[Key]:
        """Keys of the finished tiles of one scale, in row order."""
        return sorted(key for key in self.tiles if key[0] == scale)

    def up_to(self, scale: int) -> History:
        """The history without tiles of finer scales, and with the scales below `scale` as the finished ones."""
        return History(self.tiles.up_to(scale), frozenset(range(scale)))

    def of_scale(self, scale: int) -> Iterator[TileResult]:
        """Finished tiles of one scale, in row order, one at a time."""
        return (self.tiles[key] for key in self.keys(scale))


def read_history(path: Location, is_planned: Callable[[TileResult], bool] = lambda result: True) -> History:
    """Read a journal; empty where there is none. Lines that cannot be parsed, and tiles not planned, are skipped."""
    tiles: dict[Key, bytes] = {}
    finished: set[int] = set()
    for line in read_lines(path):
        # A tile whose line cannot be parsed is computed again, like one whose line is torn.
        with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            entry = json.loads(line)
            if (scale := entry.get("scale", entry.get("pass"))) is not None:
                finished.add(_count(scale))
            elif "tile" in entry and is_planned(result := TileResult.from_json(entry)):
                tiles[result.key] = line
    return History(Tiles(tiles), frozenset(finished))


class Journal:
    """A journal open for writing. A line is written when the call returns and durable a moment later; a tile whose line
    a power failure takes is computed again.
    """

    def __init__(self, path: Location, check: Callable[[], None] = lambda: None) -> None:
        """check: called before each line; its errors are raised."""
        self._lines, self._check = open_lines(path), check

    def tile(self, result: TileResult) -> None:
        """Record a finished tile."""
        self._add(result.to_json())

    def scale_done(self, scale: int) -> None:
        """Record a complete scale, durably, because the images that it was made from are deleted afterwards."""
        self._add({"scale": scale})
        self._lines.flush()

    def _add(self, entry: Mapping[str, Any]) -> None:
        self._check()
        self._lines.add(json.dumps(entry, separators=(",", ":")).encode())

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close(compact=error is None)
