"""Progress of a batch on stderr: a bar of all slides and a line for each in flight; elsewhere a line as each ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from wsi_magnet.cohort.eta import Pace, seconds_left
from wsi_magnet.cohort.events import (
    BatchBegun,
    BatchEnded,
    BatchNote,
    BatchWorkers,
    CohortEvent,
    CohortObserver,
    SlideBegun,
    SlideEnded,
    SlideTold,
)
from wsi_magnet.cohort.state import SlideState
from wsi_magnet.results.events import Note, TileFinished
from wsi_magnet.text import counted, rough_duration_text

CELLS_TOLD = 3
"""Of a slide's cells that cannot be analysed so many are told of; all are in its run.json."""

_NAME_WIDTH = 32


@contextmanager
def watching_batch(notes: Sequence[str]) -> Iterator[CohortObserver]:
    """An observer that shows a batch while the context lasts. notes: what is to be said first."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[about]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        watcher = _Watcher(console, progress)
        for note in notes:
            watcher.say(f"Note: {note}")
        yield watcher


class _Watcher:
    """Hears one event at a time."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._bar: TaskID | None = None
        self._slides: dict[str, _InFlight] = {}
        self._to_do = self._ended = 0
        self._done_bytes = self._all_bytes = 0.0
        self._begun = time.monotonic()

    def __call__(self, event: CohortEvent) -> None:
        match event:
            case BatchBegun():
                self._begin(event)
            case BatchWorkers(description, dashboard, in_flight, _):
                where = f"; dashboard {dashboard}" if dashboard else ""
                many = "one slide at a time" if in_flight == 1 else f"{in_flight} slides at once"
                self.say(f"Working with {description}, {many}{where}")
            case BatchNote(text):
                self.say(f"Note: {text}")
            case SlideBegun(state):
                self._slides[state.name] = _InFlight(self._progress, state)
            case SlideTold(name, inner):
                self._told(name, inner)
            case SlideEnded():
                self._end(event)
            case BatchEnded():
                pass

    def say(self, text: str, style: str | None = None) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, style=style)

    def _begin(self, event: BatchBegun) -> None:
        self._to_do, self._all_bytes = event.to_do, float(max(event.bytes_to_do, 1))
        self._begun = time.monotonic()
        before = "".join(f", {count} {state} before" for state, count in event.skipped.items())
        self.say(f"{counted(event.slides, 'slide')}{before}, {event.to_do} to do")
        if event.skipped.get("failed"):
            self.say("Note: what failed before is done again with --retry-failed")
        if event.skipped.get("finished with errors"):
            self.say(
                "Note: a slide with cells that could not be analysed is done again as a whole, with --restart; "
                "summary.md has the commands"
            )
        if event.to_do:
            self._bar = self._progress.add_task("all slides", total=self._all_bytes, about="")

    def _told(self, name: str, event: object) -> None:
        slide = self._slides[name]
        if isinstance(event, Note):
            self.say(f"{name}: {event.text}")
        elif isinstance(event, TileFinished):
            for cell in event.result.cells:
                if cell.failure:
                    slide.failures += 1
                    if slide.failures <= CELLS_TOLD:
                        self.say(f"{name}: NOT ANALYSED: row {cell.row}, column {cell.col}: {cell.failure}", "red")
                    if slide.failures == CELLS_TOLD:
                        self.say(f"{name}: further cells are listed in its run.json", "red")
        slide.hear(event)
        self._advance()

    def _end(self, event: SlideEnded) -> None:
        slide = self._slides.pop(event.state.name)
        slide.close()
        self._done_bytes += slide.bytes * (slide.pace.share if event.how == "stopped" else 1)
        if event.how != "stopped":
            self._ended += 1
            good = event.how in ("finished", "finished with errors")
            self.say(f"[{self._ended}/{self._to_do}] {ended_text(event)}", None if good and not event.reason else "red")
        self._advance()

    def _advance(self) -> None:
        if self._bar is None:
            return
        done = self._done_bytes + sum(slide.bytes * slide.pace.share for slide in self._slides.values())
        left = seconds_left(done, self._all_bytes - done, time.monotonic() - self._begun)
        about = f"{self._ended} of {self._to_do}" + (f", {rough_duration_text(left)} left" if left else "")
        self._progress.update(self._bar, completed=done, about=about)


class _InFlight:
    """A line for a slide under way."""

    def __init__(self, progress: Progress, state: SlideState) -> None:
        self.pace = Pace()
        self.bytes = float(max(state.size_bytes, 0))
        self.failures = 0
        self._progress = progress
        name = state.name if len(state.name) <= _NAME_WIDTH else f"{state.name[: _NAME_WIDTH - 1]}…"
        self._task = progress.add_task(f"  {name}", total=1.0, about="opening")

    def hear(self, event: object) -> None:
        """Its run has told something."""
        self.pace.hear(event)  # type: ignore[arg-type]
        if self.pace.tiles >= 0:
            done = f"{self.pace.done} of {counted(self.pace.tiles, 'tile')}"
            about = f"scale {self.pace.scale + 1}/{self.pace.scales}, {done}"
            self._progress.update(self._task, completed=self.pace.share, about=about)

    def close(self) -> None:
        """It has ended."""
        self._progress.remove_task(self._task)


def ended_text(event: SlideEnded) -> str:
    """A line for a slide that has ended."""
    state, seconds = event.state, rough_duration_text(event.seconds)
    if event.how in ("failed", "refused"):
        return f"{state.name}: {event.how.upper()} after {seconds}: {event.reason}"
    areas = state.figures.classes
    what = ", ".join(f"{name} {area:.1f}" for name, area in areas.items())
    text = f"{state.name}: finished, {seconds}, {state.figures.analysed_mm2 or 0:.1f} mm² ({what})"
    if grade := state.figures.gleason:
        text += f", Gleason {grade.primary} + {grade.secondary}"
    return f"{text}; {event.reason}" if event.reason else text
