"""The curves of a training as a picture: losses and validation mIoU by step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsi_magnet.train.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
        _looks(lower, history)
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


def _looks(axes: Axes, history: History) -> None:
    looks, best = history.looks, history.best
    axes.plot([row.step for row in looks], [100 * (row.miou or 0) for row in looks], color="#238b45", marker=".")
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
