"""Figure of accuracy against time: a labelled dot for each method, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import isnan

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from wsi_magnet.evaluate.bootstrap import Estimate
from wsi_magnet.evaluate.colours import ACCENT, INK, PALE

FONT_PT, DOT_PT = 8.0, 6.0
"""Size of a label's letters and diameter of a dot, in points."""

SIDES = ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 2), (1, -2), (-1, 2), (-1, -2))
"""Places of a label round its dot, the best first: to the right and above are positive."""

Rectangle = tuple[float, float, float, float]
"""Left, bottom, right, top."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One method."""

    name: str
    miou: Estimate
    """0 to 1."""
    seconds: float
    """Per megapixel."""
    reference: bool = False
    """True for the row that differences are relative to."""


def draw_methods(dots: Sequence[Dot], title: str) -> bytes:
    """PNG of mIoU against seconds per megapixel on a logarithmic axis; methods without both are left out."""
    shown = [one for one in dots if not isnan(one.miou.value) and one.seconds > 0]
    figure = Figure(figsize=(7.6, 5.2), dpi=150)
    axes = figure.add_axes((0.09, 0.11, 0.87, 0.81))
    for one in shown:
        _dot(axes, one)
    _set_axes(axes, shown)
    _labels(axes, shown)
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def place_labels(
    dots: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], radius: float, inside: Rectangle
) -> list[Rectangle]:
    """Rectangles of labels beside their dots that overlap as little as possible, whatever the unit.

    dots: x and y. sizes: width and height of each label. radius: of a dot. inside: where labels may be.
    """
    taken = [(x - radius, y - radius, x + radius, y + radius) for x, y in dots]
    placed: list[Rectangle] = []
    for dot, size in zip(dots, sizes, strict=True):
        choices = [_beside(dot, size, 1.5 * radius, side) for side in SIDES]
        hidden = [
            sum(_overlap(one, other) for other in (*taken, *placed)) + _area(one) - _overlap(one, inside)
            for one in choices
        ]
        placed.append(choices[hidden.index(min(hidden))])
    return placed


def _beside(dot: tuple[float, float], size: tuple[float, float], gap: float, side: tuple[int, int]) -> Rectangle:
    (x, y), (width, height), (right, up) = dot, size, side
    left = x + gap if right > 0 else x - gap - width if right < 0 else x - width / 2
    bottom = y - height / 2 + up * (height + gap) / (1 if right == 0 else 2)
    return left, bottom, left + width, bottom + height


def _overlap(one: Rectangle, other: Rectangle) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _area(one: Rectangle) -> float:
    return (one[2] - one[0]) * (one[3] - one[1])


def _dot(axes: Axes, one: Dot) -> None:
    color = ACCENT if one.reference else INK
    if not isnan(one.miou.low):
        ends = [100 * one.miou.low, 100 * one.miou.high]
        axes.plot([one.seconds] * 2, ends, color=color, linewidth=1.5, alpha=0.35)
    axes.plot(one.seconds, 100 * one.miou.value, "o", color=color, markersize=DOT_PT)


def _set_axes(axes: Axes, shown: Sequence[Dot]) -> None:
    ends = [100 * end for one in shown for end in (one.miou.low, one.miou.value, one.miou.high) if not isnan(end)]
    if ends:
        margin = max(0.06 * (max(ends) - min(ends)), 1.0)
        axes.set_ylim(max(min(ends) - margin, 0), min(max(ends) + margin, 100))
    axes.set_xscale("log")
    seconds = [one.seconds for one in shown] or [1.0]
    axes.set_xlim(min(seconds) / 1.7, max(seconds) * 1.7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
    axes.set_xlabel("seconds per megapixel", color=INK)
    axes.set_ylabel("mIoU %", color=INK)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)


def _labels(axes: Axes, shown: Sequence[Dot]) -> None:
    """Names beside the dots."""
    point = axes.figure.dpi / 72
    dots = [tuple(axes.transData.transform((one.seconds, 100 * one.miou.value))) for one in shown]
    sizes = [(0.62 * FONT_PT * point * len(one.name), 1.15 * FONT_PT * point) for one in shown]
    inside = axes.get_window_extent()
    places = place_labels(dots, sizes, DOT_PT / 2 * point, (inside.x0, inside.y0, inside.x1, inside.y1))
    for one, (x, _), (left, bottom, right, top) in zip(shown, dots, places, strict=True):
        side, at = ("left", left) if left > x else ("right", right) if right < x else ("center", x)
        axes.annotate(
            one.name,
            (at, (bottom + top) / 2),
            xycoords="figure pixels",
            ha=side,
            va="center",
            fontsize=FONT_PT,
            color=ACCENT if one.reference else INK,
        )
