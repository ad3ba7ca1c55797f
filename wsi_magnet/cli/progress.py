"""Progress on stderr: a bar for the whole on a terminal, and lines in a file."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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

from wsi_magnet.results.events import Event, Note, Observer, ScaleFinished, ScaleStarted, TileFinished, WorkersReady
from wsi_magnet.results.journal import TileResult
from wsi_magnet.results.progress import RunProgress
from wsi_magnet.results.summary import reason_key
from wsi_magnet.text import counted, rough_duration_text

if TYPE_CHECKING:
    from wsi_magnet.train.history import Row

SMOOTH_STEPS, LINE_EVERY_STEPS = 50, 50
"""Number of steps over which the displayed loss is averaged, and between the lines that are printed to a file."""

LINE_EVERY_S = 60.0
"""Time between two lines of a run in a file."""

TRAINING_LOG = "wsi_magnet.train"
"""Parent of a training's loggers."""


@contextmanager
def watching() -> Iterator[Observer]:
    """An observer that shows the progress of a run within the context: one bar, and a line for each scale."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Watcher(console, progress)


@contextmanager
def watching_training() -> Iterator[Callable[[str, Row, int], None]]:
    """An observer of a training: a bar for each stage on a terminal, else lines now and then; a line a validation.

    Messages that the training logs are shown too.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("steps, loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress, _shown_log(console):
        yield _TrainingWatcher(console, progress)


@contextmanager
def _shown_log(console: Console) -> Iterator[None]:
    """Show what trainings log on a console, within the context."""
    logger, shown = logging.getLogger(TRAINING_LOG), _Shown(console)
    level = logger.level
    logger.addHandler(shown)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(shown)


class _Shown(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage(), markup=False)


class _TrainingWatcher:
    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._bars: dict[str, TaskID] = {}
        self._losses: deque[float] = deque(maxlen=SMOOTH_STEPS)

    def __call__(self, stage: str, row: Row, steps: int) -> None:
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=steps, loss=row.loss)
            self._losses.clear()
        if row.miou is not None:
            self._print(f"{stage} step {row.step} of {steps}: loss {self._mean:.4f}, validation mIoU {row.miou:.2%}")
            return
        self._losses.append(row.loss)
        self._progress.update(self._bars[stage], completed=row.step, loss=self._mean)
        if not self._console.is_terminal and row.step % LINE_EVERY_STEPS == 0:
            self._print(f"{stage} step {row.step} of {steps}: loss {self._mean:.4f}")

    @property
    def _mean(self) -> float:
        return sum(self._losses) / max(1, len(self._losses))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False)


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
    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._bar = progress.add_task("starting", total=1.0, left="")
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
                if not self._console.is_terminal and time.monotonic() - self._printed > LINE_EVERY_S:
                    self._print(f"{100 * self._run.share:.0f} % done{self._left()}")
            case ScaleFinished(_, mpp, seconds):
                self._print(f"{mpp:g} µm/px finished in {seconds:.1f} s")
        if self._run.tiles >= 0:
            scale = f"scale {self._run.scale + 1}/{self._run.scales}  {self._run.mpp:g} µm/px"
            left = self._left().removeprefix(", ")
            self._progress.update(self._bar, description=scale, completed=self._run.share, left=left)

    def _start(self, event: ScaleStarted) -> None:
        self._started = self._started or time.monotonic()
        if event.done:
            self._print(f"{event.mpp:g} µm/px: {event.done} of {counted(event.tiles, 'tile')} finished before")
        refined = f"{event.refined_cells} of {counted(event.cells, 'cell')}"
        if not self._console.is_terminal:
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
        self._console.print(text, markup=False, style=style)
        self._printed = time.monotonic()
