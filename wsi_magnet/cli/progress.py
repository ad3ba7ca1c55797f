"""Progress of a training on stderr: bars on a terminal, and lines in a file."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan
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

if TYPE_CHECKING:
    from wsi_magnet.train.history import Row

SMOOTH_STEPS, LINE_EVERY_STEPS = 50, 50
"""Number of steps over which the displayed loss is averaged, and between the lines that are printed to a file."""

TRAINING_LOG = "wsi_magnet.train"
"""Parent of a training's loggers."""


@contextmanager
def watching_training() -> Iterator[Callable[[str, Row, int], None]]:
    """An observer of a training: on a terminal a bar, otherwise lines now and then; a line a validation.

    Messages that the training logs are shown too.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[about]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[later]}"),
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


LATER = {"backbone": "then refiners and fitting", "temperatures": "then refiners", "refiners": "then fitting"}
"""Work of a training after a stage, whose time is not known yet."""

TITLES = {
    "temperatures": "fitting temperatures",
    "thresholds": "fitting thresholds",
    "methods": "fitting other methods",
}


class _TrainingWatcher:
    """Shows one bar, of the stage that is running; during a validation a second one."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._stage = ""
        self._bars: dict[str, TaskID] = {}
        self._losses: deque[float] = deque(maxlen=SMOOTH_STEPS)

    def __call__(self, stage: str, row: Row, steps: int) -> None:
        if stage == "validation":
            self._show("  validation", row.step, steps, "views", ends=True)
            return
        if stage != self._stage:
            self._close(TITLES.get(self._stage, self._stage))
            self._stage = stage
            self._losses.clear()
        if isnan(row.loss):
            self._show(TITLES.get(stage, stage), row.step, steps, "parts", LATER.get(stage, ""), ends=True)
            return
        if row.miou is not None:
            self._print(f"{stage} step {row.step} of {steps}: loss {self._mean:.4f}, validation mIoU {row.miou:.2%}")
            if row.step == steps:
                self._close(stage)
            return
        self._losses.append(row.loss)
        self._show(stage, row.step, steps, f"steps, loss {self._mean:.4f}", LATER.get(stage, ""))
        if not self._console.is_terminal and row.step % LINE_EVERY_STEPS == 0:
            self._print(f"{stage} step {row.step} of {steps}: loss {self._mean:.4f}")

    def _show(self, title: str, done: int, count: int, about: str, later: str = "", *, ends: bool = False) -> None:
        """Move a bar. ends: remove it when all is done."""
        if title not in self._bars:
            # A stage that is resumed starts at its step, so that its speed is that of the steps taken now.
            start = done - 1 if not ends else 0
            self._bars[title] = self._progress.add_task(title, total=count, completed=start, about=about, later=later)
        self._progress.update(self._bars[title], completed=done, about=about)
        if ends and done >= count:
            self._close(title)

    def _close(self, title: str) -> None:
        if title in self._bars:
            self._progress.remove_task(self._bars.pop(title))

    @property
    def _mean(self) -> float:
        return sum(self._losses) / max(1, len(self._losses))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False)
