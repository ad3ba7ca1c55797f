"""Progress of a run for people: a bar for the whole on a terminal or in a notebook, and lines in a file."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from wsi_magnet.results.events import Event, Note, Observer, ScaleFinished, ScaleStarted, TileFinished, WorkersReady
from wsi_magnet.results.journal import TileResult
from wsi_magnet.results.progress import RunProgress
from wsi_magnet.results.summary import reason_key
from wsi_magnet.text import counted, rough_duration_text

LINE_EVERY_S = 60.0
"""Time between two lines of a run in a file."""

REDRAW_S = 0.2
"""Least time between two pictures of the bar in a notebook."""


@contextmanager
def watching(console: Console | None = None) -> Iterator[Observer]:
    """An observer that shows the progress of a run within the context: one bar, and a line for each scale.

    console: by default stderr. In a notebook the bar is the output of its cell; no widgets are needed.
    """
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_jupyter:
        notebook = _Notebook()
        try:
            yield _Watcher(notebook)
        finally:
            notebook.draw()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Watcher(_Terminal(console, progress))


class _Shown(Protocol):
    """Place where a run's progress is shown."""

    @property
    def is_live(self) -> bool:
        """True where a bar moves; False where lines are printed now and then."""
        ...

    def print(self, text: str, style: str | None) -> None:
        """Print a line that stays."""
        ...

    def update(self, description: str, share: float, left: str) -> None:
        """Move the bar. left: time left, in words."""
        ...


class _Terminal:
    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._bar = progress.add_task("starting", total=1.0, left="")

    @property
    def is_live(self) -> bool:
        return self._console.is_terminal

    def print(self, text: str, style: str | None) -> None:
        self._console.print(text, markup=False, style=style)

    def update(self, description: str, share: float, left: str) -> None:
        self._progress.update(self._bar, description=description, completed=share, left=left)


class _Notebook:
    """The output of a notebook's cell, replaced as a whole."""

    is_live = True

    def __init__(self) -> None:
        self._display: Any = import_module("IPython.display")
        self._lines: list[str] = []
        self._bar, self._drawn = self._bar_of("starting", 0.0, ""), time.monotonic()
        self._handle: Any = self._display.display(self._display.HTML(self._bar), display_id=True)

    def print(self, text: str, style: str | None) -> None:
        colour = f' style="color:{style}"' if style else ""
        self._lines.append(f"<div{colour}>{html.escape(text)}</div>")
        self.draw()

    def update(self, description: str, share: float, left: str) -> None:
        self._bar = self._bar_of(description, share, left)
        if time.monotonic() - self._drawn > REDRAW_S:
            self.draw()

    def draw(self) -> None:
        """Replace the output."""
        self._drawn = time.monotonic()
        self._handle.update(self._display.HTML("".join((*self._lines, self._bar))))

    @staticmethod
    def _bar_of(description: str, share: float, left: str) -> str:
        words = f"{html.escape(description)} {100 * share:.0f} % {html.escape(left)}"
        return f'<div><progress max="1" value="{share:.3f}"></progress> {words.rstrip()}</div>'


class UnreadableReasons:
    """Reasons why cells of one slide could not be read, each printed once."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def new_lines(self, result: TileResult) -> list[str]:
        """A line for each reason that no tile had before."""
        reasons: dict[str, str] = {}
        for failure in (cell.failure for cell in result.cells if cell.failure):
            reasons.setdefault(reason_key(failure), failure)
        new = [reason for key, reason in reasons.items() if key not in self._known]
        self._known |= reasons.keys()
        return [f"UNREADABLE: {reason} (cells are counted at the end)" for reason in new]


class _Watcher:
    def __init__(self, shown: _Shown) -> None:
        self._shown = shown
        self._run, self._unreadable = RunProgress(), UnreadableReasons()
        self._started: float | None = None
        self._printed = time.monotonic()

    def __call__(self, event: Event) -> None:
        self._run.update(event)
        match event:
            case Note(text):
                self._print(f"Note: {text}")
            case WorkersReady(description, dashboard):
                where = f"; dashboard {dashboard}" if dashboard else ""
                self._print(f"Working with {description}{where}")
            case ScaleStarted():
                self._start(event)
            case TileFinished(result):
                for line in self._unreadable.new_lines(result):
                    self._print(line, style="red")
                if not self._shown.is_live and time.monotonic() - self._printed > LINE_EVERY_S:
                    self._print(f"{100 * self._run.share:.0f} % done{self._left()}")
            case ScaleFinished(_, mpp, seconds):
                self._print(f"{mpp:g} µm/px finished in {seconds:.1f} s")
        if self._run.tiles >= 0:
            scale = f"scale {self._run.scale + 1}/{self._run.scales}  {self._run.mpp:g} µm/px"
            left = self._left().removeprefix(", ")
            self._shown.update(scale, self._run.share, left)

    def _start(self, event: ScaleStarted) -> None:
        self._started = self._started or time.monotonic()
        if event.done:
            self._print(f"{event.mpp:g} µm/px: {event.done} of {counted(event.tiles, 'tile')} finished before")
        refined = f"{event.refined_cells} of {counted(event.cells, 'cell')}"
        if not self._shown.is_live:
            title = f"scale {event.scale + 1}/{event.scales}  {event.mpp:g} µm/px  {refined}"
            done = f"; {100 * self._run.share:.0f} % done{self._left()}" if event.scale else ""
            self._print(f"{title}, {counted(event.tiles, 'tile')}{done}")

    def _left(self) -> str:
        """Time left after a comma; empty while it is unknown."""
        seconds = None if self._started is None else self._run.seconds_left(time.monotonic() - self._started)
        if seconds is None:
            return ""
        return f", {'at most' if self._run.at_most else 'about'} {rough_duration_text(seconds)} left"

    def _print(self, text: str, style: str | None = None) -> None:
        self._shown.print(text, style)
        self._printed = time.monotonic()
