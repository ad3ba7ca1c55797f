"""log.jsonl of a batch: what was asked for, who worked on it, and how each slide ended."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from wsi_magnet.cohort.events import (
    BatchBegun,
    BatchEnded,
    BatchNote,
    BatchWorkers,
    CohortEvent,
    SlideBegun,
    SlideEnded,
    SlideTold,
)
from wsi_magnet.cohort.paths import LOG
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.results.event_log import EventLog, Level, told
from wsi_magnet.results.events import TileFinished, WorkersReady
from wsi_magnet.results.record import versions
from wsi_magnet.storage.location import Location


class BatchLog:
    """An observer that writes the log of a batch."""

    def __init__(self, out: Location) -> None:
        self._log = EventLog(out / LOG)

    def __call__(self, event: CohortEvent) -> None:
        """The observer."""
        values: dict[str, Any]
        match event:
            case BatchBegun():
                values = {"command": event.command, "options": event.options, "versions": versions()}
                counts = {"slides": event.slides, "to_do": event.to_do, "skipped": event.skipped}
                self._write("info", "batch started", {**values, **counts, "bytes_to_do": event.bytes_to_do})
            case BatchWorkers(description, dashboard, in_flight, workers):
                values = {"description": description, "dashboard": dashboard, "in_flight": in_flight}
                self._write("info", "workers", {**values, "workers": workers})
            case BatchNote(text):
                self._write("warning", "notice", {"text": text})
            case SlideBegun(state):
                self._write(
                    "info", "slide started", {"slide": state.name, "path": state.slide, "attempt": state.attempts}
                )
            case SlideTold(_, TileFinished() | WorkersReady()):
                pass
            case SlideTold(name, inner):
                for level, what, inside in told(inner):
                    self._write(level, what, {"slide": name, **inside})
            case SlideEnded():
                self._slide_ended(event)
            case BatchEnded(seconds, counts, error):
                values = {"seconds": round(seconds, 1), "slides": dict(counts), "error": error}
                self._write("info" if error is None else "error", "batch ended", values)

    def _slide_ended(self, event: SlideEnded) -> None:
        values: dict[str, Any] = {"slide": event.state.name, "state": event.how, "seconds": round(event.seconds, 1)}
        if event.reason:
            values["reason"] = event.reason
        if event.error is not None:
            values["error_type"] = type(event.error).__name__
            if not isinstance(event.error, WsiMagnetError):
                values["traceback"] = "".join(traceback.format_exception(event.error))
        self._write("info" if event.how == "finished" else "error", "slide ended", values)

    def _write(self, level: Level, what: str, values: Mapping[str, Any]) -> None:
        self._log.write(level, what, values)

    def close(self, *, tidy: bool) -> None:
        """Make all of it last. tidy: as `Lines.close`."""
        self._log.close(compact=tidy)
