"""Event log of a result, log.jsonl: a JSON object per line, appended.

Each line has the time (ISO 8601, UTC), a level, the event and its values. Tiles are in journal.jsonl.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.results.events import Event, Note, RunPlanned, ScaleFinished, ScaleStarted, TileFinished, WorkersReady
from wsi_magnet.results.record import versions
from wsi_magnet.results.summary import RunSummary
from wsi_magnet.storage.append_log import Lines, open_lines
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, exists

Level = Literal["info", "warning", "error"]
Entry = tuple[Level, str, dict[str, Any]]
"""Level, event, and its values."""

LOG = "log.jsonl"


class EventLog:
    """Log to which one process at a time appends lines; in an object store they appear a moment later.

    Errors of writing are ignored: a log is no reason to lose a run.
    """

    def __init__(self, path: Location) -> None:
        self._path = path
        self._lines: Lines | None = None

    def write(self, level: Level, event: str, values: Mapping[str, Any]) -> None:
        """Append a line."""
        self.add([line(level, event, values)])

    def add(self, lines: Iterable[str]) -> bool:
        """Append lines as from `line`; False if they cannot be written."""
        try:
            self._lines = self._lines or open_lines(self._path)
            for one in lines:
                self._lines.add(one.encode())
        except WsiMagnetError:
            self.close(compact=False)  # the next opening closes a torn line
            return False
        return True

    def close(self, *, compact: bool) -> None:
        """Make all lines durable. compact: as in `Lines.close`."""
        lines, self._lines = self._lines, None
        with suppress(WsiMagnetError):
            if lines is not None:
                lines.close(compact=compact)


def line(level: Level, event: str, values: Mapping[str, Any]) -> str:
    """Line of a log, without its newline."""
    return json.dumps({"time": now(), "level": level, "event": event, **values}, default=str)


def now(unit: str = "milliseconds") -> str:
    """Current time in UTC, ISO 8601, to that unit: one that `datetime.isoformat` has."""
    return datetime.now(UTC).isoformat(timespec=unit)


def entries_of(event: Event) -> list[Entry]:
    """Log entries of an event; none for a tile without unreadable cells."""
    match event:
        case Note(text):
            return [("warning", "notice", {"text": text})]
        case WorkersReady(description, dashboard):
            return [("info", "workers", {"description": description, "dashboard": dashboard})]
        case RunPlanned():
            return [("info", "planned", asdict(event))]
        case ScaleStarted():
            values = {"scale": event.scale, "scales": event.scales, "mpp": event.mpp, "tiles": event.tiles}
            values |= {"done": event.done, "refined_cells": event.refined_cells, "cells": event.cells}
            return [("info", "scale started", values)]
        case ScaleFinished(scale, mpp, seconds):
            return [("info", "scale finished", {"scale": scale, "mpp": mpp, "seconds": round(seconds, 3)})]
        case TileFinished(result):
            return [
                (
                    "error",
                    "cell not analysed",
                    {"scale": result.scale, "row": c.row, "col": c.col, "reason": c.failure, "worker": result.worker},
                )
                for c in result.cells
                if c.failure
            ]


class RunLog:
    """Log of a run in its result folder: an observer, and a context that records the end of the run.

    Nothing is written before the folder belongs to the run and holds its run.json: a refused run leaves another one's
    result unchanged.
    """

    def __init__(self, folder: Location, about: Mapping[str, Any]) -> None:
        """about: command and options of the run."""
        self._log = EventLog(folder / LOG)
        self._run_json = folder / "run.json"
        started = {**about, "host": socket.gethostname(), "versions": versions()}
        self._waiting = [line("info", "started", started)]
        self._started = self._is_ours = self._compact = False

    def __call__(self, event: Event) -> None:
        """Record an event."""
        self._started = True
        self._waiting += [line(*one) for one in entries_of(event)]
        self._is_ours = self._is_ours or isinstance(event, ScaleStarted)
        if self._is_ours:
            self._flush()

    def finished(self, summary: RunSummary) -> None:
        """Record the end of the run."""
        if not summary.done_before:
            failed = len(summary.failures)
            state = "finished with errors" if failed else "finished"
            counts = {
                "cells_unreadable": failed,
                "cells_not_analysed": summary.summary.get("cells_not_analysed", failed),
            }
            self._waiting.append(line("error" if failed else "info", state, counts))
            self._flush()
            self._compact = True

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._started and self._has_run():
            level: Level = "error" if isinstance(error, Exception) else "warning"
            values = {"error": str(error), "error_type": type(error).__name__}
            self._waiting.append(line(level, "stopped", values))
            self._flush()
        self._log.close(compact=self._compact)

    def _has_run(self) -> bool:
        with suppress(WsiMagnetError), storage_errors(self._run_json):
            return self._is_ours or exists(self._run_json)
        return False

    def _flush(self) -> None:
        if self._log.add(self._waiting):
            self._waiting.clear()
