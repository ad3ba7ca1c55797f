"""Progress of a training on stderr: bars on a terminal, and lines in a file."""

from __future__ import annotations

import logging
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

if TYPE_CHECKING:
    from wsi_magnet.train.history import Row

SMOOTH_STEPS, LINE_EVERY_STEPS = 50, 50
"""Number of steps over which the displayed loss is averaged, and between the lines that are printed to a file."""

TRAINING_LOG = "wsi_magnet.train"
"""Parent of a training's loggers."""


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
