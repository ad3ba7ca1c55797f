"""Losses and validation mIoU of a stage by step, as CSV and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLUMNS = ("stage", "step", "loss", "learning_rate", "validation_miou")


@dataclass(frozen=True, slots=True)
class Row:
    """One step."""

    step: int
    """Counted from 1."""
    loss: float
    """NaN where nothing is learned; see `progress_of`."""
    learning_rate: float
    miou: float | None
    """On the validation rows, 0 to 1; None for most steps."""
    seconds: float
    """Duration, with that of its validation."""


Watcher = Callable[[str, Row, int], None]
"""Callback with the name of a stage, a step of it, and the number of its steps.

Besides "backbone", "refiners" and the names of other methods, whose steps learn, there are "validation",
"temperatures", "thresholds", "methods" and "profile": their steps are views, candidates and images, and have no loss.
"""


def progress_of(stage: str, watch: Watcher) -> Callable[[int, int], None]:
    """Callback with finished and all steps of a stage that learns nothing."""
    return lambda done, steps: watch(stage, Row(done, nan, 0.0, None, 0.0), steps)


@dataclass(slots=True)
class History:
    """Steps of a stage so far."""

    rows: list[Row] = field(default_factory=list)
    kept_from: int = 0
    """The first step that may be the best."""

    @property
    def validations(self) -> list[Row]:
        """The steps that were validated."""
        return [row for row in self.rows if row.miou is not None]

    @property
    def best(self) -> Row | None:
        """First step with the highest mIoU among those that may be kept; None before any."""
        kept = [row for row in self.validations if row.step >= self.kept_from]
        return max(kept, key=lambda row: (row.miou or 0.0, -row.step), default=None)

    def is_best(self, step: int, miou: float) -> bool:
        """True if the mIoU is higher than at every earlier step that may be kept."""
        return step >= self.kept_from and (self.best is None or miou > (self.best.miou or 0.0))

    def stale(self, patience: int) -> bool:
        """True after `patience` validations without improvement."""
        best = self.best
        return best is not None and sum(row.step > best.step for row in self.validations) >= patience

    def to_json(self) -> list[list[Any]]:
        """Plain values, a list a step."""
        return [[row.step, row.loss, row.learning_rate, row.miou, row.seconds] for row in self.rows]

    @staticmethod
    def from_json(values: Sequence[Sequence[Any]], kept_from: int = 0) -> History:
        """The inverse of `to_json`."""
        return History([Row(*value) for value in values], kept_from)


def to_csv(histories: Mapping[str, History]) -> str:
    """All stages as CSV; no times, so that the same training gives the same file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for stage, history in histories.items():
        for row in history.rows:
            miou = "" if row.miou is None else f"{row.miou:.6f}"
            writer.writerow([stage, row.step, f"{row.loss:.6g}", f"{row.learning_rate:.6g}", miou])
    return text.getvalue()


SMOOTH_OVER = 25
"""Most steps over which the drawn loss is averaged, and never more than a third of them; single steps are drawn pale
behind it."""

LEAST_SPAN = 1.0
"""Points of mIoU that its axis shows at least, so that a stage where nothing changes is seen to be one."""

Steps = np.ndarray[tuple[int], np.dtype[np.float64]]


def draw_curves(histories: Mapping[str, History], path: Path) -> None:
    """Write a PNG, a column a stage; steps too early to be kept are shaded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {name: one for name, one in histories.items() if one.rows}
    figure = Figure(figsize=(6 * max(1, len(shown)), 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, max(1, len(shown)), sharex="col", squeeze=False)
    for column, (name, history) in enumerate(shown.items()):
        upper, lower = axes[0, column], axes[1, column]
        _losses(upper, history)
        _validations(lower, history)
        upper.set_title(name)
        lower.set_xlabel("step")
        for axis in (upper, lower):
            _frame(axis, history)
    figure.savefig(path, dpi=110, format="png")


def _losses(axes: Axes, history: History) -> None:
    steps, losses = np.array([(row.step, row.loss) for row in history.rows]).T
    mark = "." if len(steps) < SMOOTH_OVER else ""
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.6, marker=mark)
    axes.plot(*_smooth(steps, losses), color="#08519c", linewidth=1.6)
    axes.set(ylabel="training loss", ylim=(0, float(np.quantile(losses, 0.99)) * 1.1 + 1e-6))


def _validations(axes: Axes, history: History) -> None:
    validations, best = history.validations, history.best
    axes.plot(
        [row.step for row in validations], [100 * (row.miou or 0) for row in validations], color="#238b45", marker="."
    )
    if best is not None:
        axes.axvline(best.step, color="#999999", linewidth=0.8, linestyle=":")
        axes.set_title(f"best {100 * (best.miou or 0):.1f} at {best.step}", fontsize=9, loc="right")
    if history.kept_from > 1:
        axes.set_title(f"shaded: before step {history.kept_from}, too early to be kept", fontsize=9, loc="left")
    axes.set_ylabel("validation mIoU, %")
    low, high = axes.get_ylim()
    more = max(0.0, LEAST_SPAN - (high - low)) / 2
    axes.set_ylim(low - more, high + more)


def _frame(axes: Axes, history: History) -> None:
    last = history.rows[-1].step
    if history.kept_from > 1:
        axes.axvspan(0, min(history.kept_from, last), color="#e8e8e8", linewidth=0, zorder=0)
    axes.set_xlim(0, last + max(1, 0.03 * last))
    axes.locator_params(axis="x", integer=True)
    axes.ticklabel_format(useOffset=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _smooth(steps: Steps, values: Steps) -> tuple[Steps, Steps]:
    width = max(1, min(SMOOTH_OVER, len(values) // 3))
    kernel = np.ones(width) / width
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")
