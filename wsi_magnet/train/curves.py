"""The curves of a training as a picture: losses, learning rate and validation mIoU by step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wsi_magnet.train.history import History

SMOOTH_OVER = 25
"""Steps over which the drawn loss is averaged; single steps are drawn pale behind it."""


def draw_curves(histories: Mapping[str, History], path: Path) -> None:
    """Write a PNG, a column a stage."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {name: one for name, one in histories.items() if one.rows}
    figure = Figure(figsize=(6 * max(1, len(shown)), 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, max(1, len(shown)), sharex="col", squeeze=False)
    for column, (name, history) in enumerate(shown.items()):
        steps, losses = np.array([(row.step, row.loss) for row in history.rows]).T
        upper, lower = axes[0, column], axes[1, column]
        upper.plot(steps, losses, color="#9ecae1", linewidth=0.6)
        upper.plot(*_smooth(steps, losses), color="#08519c", linewidth=1.6)
        upper.set(title=name, ylabel="training loss", ylim=(0, float(np.quantile(losses, 0.99)) * 1.1 + 1e-6))
        looks = history.looks
        lower.plot([r.step for r in looks], [100 * (r.miou or 0) for r in looks], color="#238b45", marker=".")
        if history.best is not None:
            best = history.best
            text = f"best {100 * (best.miou or 0):.1f} at {best.step}"
            lower.axvline(best.step, color="#999999", linewidth=0.8, linestyle=":")
            lower.set_title(text, fontsize=9, loc="right")
        lower.set(xlabel="step", ylabel="validation mIoU, %")
        for axis in (upper, lower):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, format="png")


def _smooth(
    steps: np.ndarray[tuple[int], np.dtype[np.float64]], values: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    width = min(SMOOTH_OVER, len(values))
    kernel = np.ones(width) / width
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")
