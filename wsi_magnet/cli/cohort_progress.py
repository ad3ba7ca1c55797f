"""Progress of a batch on stderr: bars for all slides and those in flight, or without a terminal a line as each ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from wsi_magnet.cohort.events import (
    BatchEnded,
    BatchNote,
    BatchStarted,
    BatchWorkers,
    CohortEvent,
    CohortObserver,
    SlideEnded,
    SlideEvent,
    SlideStarted,
)
from wsi_magnet.cohort.state import SlideState
from wsi_magnet.results.events import Event, Note, TileFinished
from wsi_magnet.results.progress import RunProgress, seconds_left
from wsi_magnet.segment.progress import UnreadableReasons
from wsi_magnet.text import area_text, counted, rough_duration_text

_NAME_WIDTH = 32


@contextmanager
def watching_batch(notes: Sequence[str]) -> Iterator[CohortObserver]:
    """Context with an observer that shows a batch. notes: lines to print first."""
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
            watcher.print_line(f"Note: {note}")
        yield watcher


class _Watcher:
    """Shows one event at a time."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._bar: TaskID | None = None
        self._slides: dict[str, _SlideLine] = {}
        self._to_do = self._ended = 0
        self._done_bytes = self._all_bytes = 0.0
        self._started = time.monotonic()

    def __call__(self, event: CohortEvent) -> None:
        match event:
            case BatchStarted():
                self._start(event)
            case BatchWorkers(description, dashboard, in_flight, _):
                where = f"; dashboard {dashboard}" if dashboard else ""
                many = "one slide at a time" if in_flight == 1 else f"{in_flight} slides at once"
                self.print_line(f"Working with {description}, {many}{where}")
            case BatchNote(text):
                self.print_line(f"Note: {text}")
            case SlideStarted(state):
                self._slides[state.name] = _SlideLine(self._progress, state)
            case SlideEvent(name, inner):
                self._update(name, inner)
            case SlideEnded():
                self._end(event)
            case BatchEnded():
                pass

    def print_line(self, text: str, style: str | None = None) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, style=style)

    def _start(self, event: BatchStarted) -> None:
        self._to_do, self._all_bytes = event.to_do, float(max(event.bytes_to_do, 1))
        self._started = time.monotonic()
        before = "".join(f", {count} {state} before" for state, count in event.skipped.items())
        self.print_line(f"{counted(event.slides, 'slide')}{before}, {event.to_do} to do")
        if event.skipped.get("failed"):
            self.print_line("Note: slides that failed before are repeated with --retry-failed")
        if event.skipped.get("finished with errors"):
            self.print_line(
                "Note: a slide with cells that could not be read is repeated as a whole, with --restart; "
                "summary.md has the commands"
            )
        if event.to_do:
            self._bar = self._progress.add_task("all slides", total=self._all_bytes, about="")

    def _update(self, name: str, event: Event) -> None:
        slide = self._slides[name]
        if isinstance(event, Note):
            self.print_line(f"{name}: {event.text}")
        elif isinstance(event, TileFinished):
            for line in slide.unreadable.new_lines(event.result):
                self.print_line(f"{name}: {line}", "red")
        slide.update(event)
        self._advance()

    def _end(self, event: SlideEnded) -> None:
        slide = self._slides.pop(event.state.name)
        slide.close()
        self._done_bytes += slide.bytes * (slide.progress.share if event.outcome == "stopped" else 1)
        if event.outcome != "stopped":
            self._ended += 1
            style = None if event.outcome == "finished" else "red"
            for number, line in enumerate(ended_lines(event)):
                self.print_line(line if number else f"[{self._ended}/{self._to_do}] {line}", style)
        self._advance()

    def _advance(self) -> None:
        if self._bar is None:
            return
        done = self._done_bytes + sum(slide.bytes * slide.progress.share for slide in self._slides.values())
        left = seconds_left(done, self._all_bytes - done, time.monotonic() - self._started)
        about = f"{self._ended} of {self._to_do}" + (f", {rough_duration_text(left)} left" if left else "")
        self._progress.update(self._bar, completed=done, about=about)


class _SlideLine:
    """The bar of a slide in flight."""

    def __init__(self, bars: Progress, state: SlideState) -> None:
        self.progress, self.unreadable = RunProgress(), UnreadableReasons()
        self.bytes = float(max(state.size_bytes, 0))
        self._bars = bars
        name = state.name if len(state.name) <= _NAME_WIDTH else f"{state.name[: _NAME_WIDTH - 1]}…"
        self._bar = bars.add_task(f"  {name}", total=1.0, about="opening")

    def update(self, event: Event) -> None:
        """Show an event of its run."""
        progress = self.progress
        progress.update(event)
        if progress.tiles >= 0:
            done = f"{progress.done} of {counted(progress.tiles, 'tile')}"
            about = f"scale {progress.scale + 1}/{progress.scales}, {done}"
            self._bars.update(self._bar, completed=progress.share, about=about)

    def close(self) -> None:
        """Remove the bar."""
        self._bars.remove_task(self._bar)


def ended_lines(event: SlideEnded) -> list[str]:
    """A line for a slide that has ended, and one for each reason why cells could not be read."""
    state, seconds = event.state, rough_duration_text(event.seconds)
    if event.outcome in ("failed", "refused"):
        return [f"{state.name}: {event.outcome.upper()} after {seconds}: {event.reason}"]
    metrics = state.metrics
    areas = ", ".join(f"{name} {area_text(area)}" for name, area in metrics.classes.items() if area)
    text = f"{state.name}: {event.outcome}, {seconds}, {area_text(metrics.analysed_mm2 or 0)}"
    text += f" ({areas})" if areas else ""
    if grade := metrics.gleason:
        text += f", Gleason {grade.primary} + {grade.secondary}"
    if metrics.alarms:
        text += f"; ALARM: {'; '.join(metrics.alarms)}"
    return [text, *(f"{state.name}: {reason}" for reason in event.reasons)]
