"""Progress of a run on stderr: a bar where somebody watches a terminal, a line a scale where it goes to a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from wsi_magnet.events import Event, Note, Observer, PassFinished, PassStarted, TileFinished, WorkersReady


@contextmanager
def watching() -> Iterator[Observer]:
    """An observer that shows a run while the context lasts."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Watcher(console, progress)


class _Watcher:
    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._bar: TaskID | None = None
        self._failures = 0
        self._began = time.monotonic()

    def __call__(self, event: Event) -> None:
        match event:
            case Note(text):
                self._console.print(f"Note: {text}", markup=False)
            case WorkersReady(description, dashboard):
                where = f"; dashboard {dashboard}" if dashboard else ""
                self._console.print(f"Working with {description}{where}", markup=False)
            case PassStarted():
                self._start(event)
            case TileFinished(result):
                for cell in result.cells:
                    if cell.failure:
                        self._console.print(
                            f"NOT ANALYSED: row {cell.row}, column {cell.col}: {cell.failure}",
                            markup=False,
                            style="red",
                        )
                if self._bar is not None:
                    self._progress.advance(self._bar)
            case PassFinished(_, mpp, seconds):
                if not self._console.is_terminal:
                    self._console.print(f"{mpp:g} µm/px finished in {seconds:.1f} s", markup=False)

    def _start(self, event: PassStarted) -> None:
        refined = f"{event.refined_cells} of {event.cells} squares"
        title = f"scale {event.scale + 1}/{event.scales}  {event.mpp:g} µm/px  {refined}"
        if event.done:
            self._console.print(
                f"{event.mpp:g} µm/px: {event.done} of {event.tiles} tiles were finished before", markup=False
            )
        if not self._console.is_terminal:
            self._console.print(f"{title}, {event.tiles} tiles", markup=False)
        self._bar = self._progress.add_task(title, total=event.tiles, completed=event.done)
