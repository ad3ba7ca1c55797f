"""Events of a batch for its observers, besides the events of each run, and the log of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wsi_magnet.cohort.paths import LOG
from wsi_magnet.cohort.state import SlideState
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.results.event_log import EventLog, entries_of
from wsi_magnet.results.events import Event, RunPlanned, TileFinished, WorkersReady
from wsi_magnet.results.record import versions
from wsi_magnet.storage.location import Location
from wsi_magnet.values import documented

Outcome = Literal["finished", "finished with errors", "failed", "refused", "stopped"]
"""Outcome of a slide in a batch. "refused": its existing result stays, because its options differ or the slide cannot
be read now; "stopped": the batch ended before the slide did."""


@documented
@dataclass(frozen=True, slots=True)
class BatchStarted:
    """All slides are known, and which of them are to be done."""

    command: str
    """The command that resumes the batch."""
    options: Mapping[str, Any]
    slides: int
    to_do: int
    bytes_to_do: int
    """Size of the slides' files: the amount of work, roughly."""
    skipped: Mapping[str, int]
    """Counts by state of the slides that are left as they are."""


@documented
@dataclass(frozen=True, slots=True)
class BatchWorkers:
    """The workers are ready."""

    description: str
    dashboard: str | None
    in_flight: int
    workers: Mapping[str, Any]
    """Host, process, threads and versions of each worker, or its error, by its name."""


@documented
@dataclass(frozen=True, slots=True)
class BatchNote:
    """A note for the user about the whole batch."""

    text: str


@documented
@dataclass(frozen=True, slots=True)
class SlideStarted:
    """A slide has been started or resumed."""

    state: SlideState


@documented
@dataclass(frozen=True, slots=True)
class SlideEvent:
    """An event of a slide's run."""

    name: str
    event: Event


@documented
@dataclass(frozen=True, slots=True)
class SlideEnded:
    """A slide has ended, in whatever way; "finished" is one of them."""

    state: SlideState
    outcome: Outcome
    seconds: float
    reasons: tuple[str, ...] = ()
    """A line for each reason if anything is wrong."""
    error: Exception | None = None
    """The error of its run."""

    @property
    def reason(self) -> str:
        """All reasons on one line; "" without any."""
        return "; ".join(self.reasons)


@documented
@dataclass(frozen=True, slots=True)
class BatchEnded:
    """The last event."""

    seconds: float
    counts: Mapping[str, int]
    """Slides of the batch by state."""
    error: str | None = None
    """The error that ended it before all slides were done."""


CohortEvent = BatchStarted | BatchWorkers | BatchNote | SlideStarted | SlideEvent | SlideEnded | BatchEnded
CohortObserver = Callable[[CohortEvent], None]


def ignore(event: CohortEvent) -> None:
    """An observer that does nothing."""


class BatchLog:
    """An observer that writes log.jsonl of a batch: its options, its workers, and the outcome of each slide."""

    def __init__(self, out: Location) -> None:
        self._log = EventLog(out / LOG)

    def __call__(self, event: CohortEvent) -> None:
        """Write the lines of an event."""
        values: dict[str, Any]
        match event:
            case BatchStarted():
                values = {"command": event.command, "options": event.options, "versions": versions()}
                counts = {"slides": event.slides, "to_do": event.to_do, "skipped": event.skipped}
                self._log.write("info", "batch started", {**values, **counts, "bytes_to_do": event.bytes_to_do})
            case BatchWorkers(description, dashboard, in_flight, workers):
                values = {"description": description, "dashboard": dashboard, "in_flight": in_flight}
                self._log.write("info", "workers", {**values, "workers": workers})
            case BatchNote(text):
                self._log.write("warning", "notice", {"text": text})
            case SlideStarted(state):
                values = {"slide": state.name, "path": state.slide, "attempt": state.attempts}
                self._log.write("info", "slide started", values)
            case SlideEvent(_, TileFinished() | WorkersReady() | RunPlanned()):
                pass
            case SlideEvent(name, inner):
                for level, text, inside in entries_of(inner):
                    self._log.write(level, text, {"slide": name, **inside})
            case SlideEnded():
                self._slide_ended(event)
            case BatchEnded(seconds, counts, error):
                values = {"seconds": round(seconds, 1), "slides": dict(counts), "error": error}
                self._log.write("info" if error is None else "error", "batch ended", values)

    def _slide_ended(self, event: SlideEnded) -> None:
        values: dict[str, Any] = {"slide": event.state.name, "state": event.outcome, "seconds": round(event.seconds, 1)}
        if event.reasons:
            values["reason"] = event.reason
        if event.error is not None:
            values["error_type"] = type(event.error).__name__
            if not isinstance(event.error, WsiMagnetError):
                values["traceback"] = "".join(traceback.format_exception(event.error))
        self._log.write("info" if event.outcome == "finished" else "error", "slide ended", values)

    def close(self, *, compact: bool) -> None:
        """Make all lines durable. compact: as in `Lines.close`."""
        self._log.close(compact=compact)
