"""What is done: a line of JSON for each finished tile, appended by the one process that coordinates the run.

Resuming is a set difference. A line counts only if it is whole: the last one may be torn by a power cut, and its tile
is then simply done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from wsi_magnet.store import explained

Quarters = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
"""(sum, pixels) of the uncertainty, 0..255, in a cell's quarters: upper left, upper right, lower left, lower right."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """What the journal keeps of a cell: was it refined, and how uncertain are its quarters, the next scale's cells."""

    row: int
    col: int
    refined: bool
    quarters: Quarters
    failure: str | None = None
    """Why it could not be analysed."""
    unread: bool = False
    """True where it was to be refined and was not read, because no reading could have changed it."""


@dataclass(frozen=True, slots=True)
class TileResult:
    """What a worker reports of a finished tile; its pixels are in the store already."""

    scale: int
    row: int
    col: int
    cells: tuple[CellResult, ...]
    label_pixels: Mapping[int, int]
    """Pixels by label value, over the tile's analysed cells."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where the time went: "read", "compute", "write", "total"."""
    worker: str = ""

    @property
    def key(self) -> tuple[int, int, int]:
        """(scale, tile row, tile column)."""
        return self.scale, self.row, self.col

    def to_json(self) -> dict[str, Any]:
        """Plain values, short: a slide has thousands."""
        return {
            "tile": list(self.key),
            "cells": [
                [c.row, c.col, c.refined + c.unread, [list(q) for q in c.quarters], c.failure] for c in self.cells
            ],
            "labels": {str(k): v for k, v in self.label_pixels.items()},
            "s": {k: round(v, 4) for k, v in self.seconds.items()},
            "worker": self.worker,
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> TileResult:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        cells = tuple(map(_cell, entry["cells"]))
        labels = {int(k): int(v) for k, v in entry["labels"].items()}
        scale, row, col = entry["tile"]
        return TileResult(int(scale), int(row), int(col), cells, labels, entry["s"], entry["worker"])


def _cell(entry: Sequence[Any]) -> CellResult:
    row, col, looked_at, quarters, failure = entry
    sums: Any = tuple((int(total), int(pixels)) for total, pixels in quarters)
    return CellResult(int(row), int(col), bool(looked_at), sums, failure, unread=looked_at == 2)


@dataclass(frozen=True)
class History:
    """A journal read back."""

    tiles: dict[tuple[int, int, int], TileResult]
    passes: frozenset[int]
    """Scales that are complete, their pyramid included."""

    def of_scale(self, scale: int) -> list[TileResult]:
        """Finished tiles of one scale, in row order."""
        return [self.tiles[key] for key in sorted(self.tiles) if key[0] == scale]


def read_history(path: Path) -> History:
    """Read a journal; an absent one is an empty history, lines that make no sense are passed over."""
    tiles: dict[tuple[int, int, int], TileResult] = {}
    passes: set[int] = set()
    for entry in _whole_lines(path):
        # A line that makes no sense is a tile to be done again, like a torn one.
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            if "pass" in entry:
                passes.add(int(entry["pass"]))
            elif "tile" in entry:
                result = TileResult.from_json(entry)
                tiles[result.key] = result
    return History(tiles, frozenset(passes))


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with explained(path), path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


class Journal:
    """An open journal; every line is on disk when the call returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with explained(path):
            _end_with_newline(path)
            self._file = path.open("ab", buffering=0)  # a failed write leaves nothing to be flushed again at close

    def tile(self, result: TileResult) -> None:
        """A tile is finished."""
        self._append(result.to_json())

    def pass_done(self, scale: int) -> None:
        """A scale is complete."""
        self._append({"pass": scale})

    def _append(self, entry: Mapping[str, Any]) -> None:
        with explained(self._path):
            self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with explained(self._path):
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end_with_newline(path: Path) -> None:
    """Close a torn last line, so that the next entry does not become part of it."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
