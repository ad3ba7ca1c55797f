"""Figures of the table, with a dot per number and a line for its interval, and of the refine curve."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import isnan

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsi_magnet.evaluate.bootstrap import Estimate
from wsi_magnet.evaluate.colours import ACCENT, INK, PALE
from wsi_magnet.evaluate.columns import MIOU, iou_key
from wsi_magnet.evaluate.comparison import ScoredRow
from wsi_magnet.evaluate.report import Report
from wsi_magnet.evaluate.scatter import Dot, draw_methods
from wsi_magnet.evaluate.tables import images_text

AUTO = "auto"
"""Name of a curve's row that uses the bundle's own thresholds."""

COLUMNS = 4
"""Maximum number of panels side by side."""

LEAST_SPAN = 10.0
"""Minimum span of a percentage axis, in points, so that differences of a tenth of a point look small."""

_DPI = 150


def draw_comparison(report: Report) -> bytes:
    """PNG of mIoU and each class's IoU by row, and of the seconds per megapixel if measured."""
    rows = report.comparison.rows
    names = [name for name, n in zip(report.comparison.target.names, report.labelled(), strict=True) if n]
    panels = [("mIoU %", MIOU), *((f"IoU %, {name}", iou_key(name)) for name in names)]
    timed = any(row.seconds for row in rows)
    count = len(panels) + timed
    across = min(count, COLUMNS)
    down = -(-count // across)
    figure = Figure(figsize=(1.6 + 2.7 * across, down * (1.0 + 0.36 * len(rows))), dpi=_DPI, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for i, (title, key) in enumerate(panels):
        _estimates(axes[i], report, title, key, named=i % across == 0)
    if timed:
        _seconds(axes[len(panels)], report, named=len(panels) % across == 0)
    for unused in axes[count:]:
        unused.set_axis_off()
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=9, color=INK)
    return _png(figure)


def draw_scatter(report: Report) -> bytes:
    """PNG of mIoU against time, a dot for each row that was timed."""
    dots = [
        Dot(
            row.name,
            report.estimate(row, MIOU),
            report.seconds_per_megapixel(row),
            row.name == report.comparison.reference,
        )
        for row in report.comparison.rows
    ]
    return draw_methods(dots, _title(report))


def draw_curve(report: Report) -> bytes:
    """PNG of mIoU against the share of refined cells, a line per bundle; "auto" has its own marker."""
    figure = Figure(figsize=(6.4, 4.2), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    bundles = list(dict.fromkeys(row.bundle for row in report.comparison.rows))
    for i, bundle in enumerate(bundles):
        rows = sorted(
            (row for row in report.comparison.rows if row.bundle == bundle), key=lambda row: row.refined_share or 0.0
        )
        _curve(axes, report, rows, f"C{i}" if len(bundles) > 1 else INK)
    axes.set_xlabel("cells refined, % of those with tissue")
    axes.set_ylabel("mIoU %")
    axes.set_xlim(-4, 104)
    axes.set_ylim(*_limits([report.estimate(row, MIOU) for row in report.comparison.rows]))
    _plain_frame(axes)
    axes.grid(color=PALE, linewidth=0.6)
    if len(bundles) > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.set_title(_title(report), loc="left", fontsize=9, color=INK)
    return _png(figure)


def _estimates(axes: Axes, report: Report, title: str, key: str, *, named: bool) -> None:
    rows = report.comparison.rows
    for place, row in enumerate(rows):
        _dot(axes, report.estimate(row, key), place, _color(report, row))
    if len(rows) > 1:
        reference = next(report.estimate(row, key).value for row in rows if row.name == report.comparison.reference)
        axes.axvline(100 * reference, color=ACCENT, linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlim(*_limits([report.estimate(row, key) for row in rows]))
    _panel(axes, report, title, named=named)


def _dot(axes: Axes, found: Estimate, place: int, color: str) -> None:
    if not isnan(found.low):
        axes.plot([100 * found.low, 100 * found.high], [place, place], color=color, linewidth=2, alpha=0.5)
    if isnan(found.value):
        return
    axes.plot(100 * found.value, place, "o", color=color, markersize=6, clip_on=False)
    axes.annotate(
        f"{100 * found.value:.1f}",
        (100 * found.value, place),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=color,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},  # breaks the dotted line
    )


def _limits(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Limits of a percentage axis: around the numbers and their intervals, within 0 to 100."""
    ends = [100 * end for one in estimates for end in (one.value, one.low, one.high) if not isnan(end)] or [0.0, 100.0]
    low, high = min(ends), max(ends)
    margin = max(0.15 * (high - low), (LEAST_SPAN - (high - low)) / 2)
    high = min(high + margin, 100.0)
    low = min(low - margin, high - LEAST_SPAN)
    return max(low, 0.0), max(high, LEAST_SPAN)


def _seconds(axes: Axes, report: Report, *, named: bool) -> None:
    for place, row in enumerate(report.comparison.rows):
        seconds = report.seconds_per_megapixel(row)
        axes.barh(place, seconds, height=0.5, color=_color(report, row), alpha=0.5)
        axes.annotate(
            f"{seconds:.2f}", (seconds, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.margins(x=0.25)
    axes.set_xlim(left=0)
    _panel(axes, report, "seconds per megapixel", named=named)


def _panel(axes: Axes, report: Report, title: str, *, named: bool) -> None:
    rows = report.comparison.rows
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.set_yticks(range(len(rows)), [row.name for row in rows] if named else [""] * len(rows), fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    _plain_frame(axes)


def _curve(axes: Axes, report: Report, rows: Sequence[ScoredRow], color: str) -> None:
    share = {row.name: 100 * (row.refined_share or 0.0) for row in rows}
    found = {row.name: report.estimate(row, MIOU) for row in rows}
    chosen = [row.name for row in rows if not row.name.startswith(AUTO)]
    heights = [100 * found[name].value for name in chosen]
    axes.plot([share[name] for name in chosen], heights, "-o", color=color, label=rows[0].bundle)
    for name, estimate in found.items():
        x, y = share[name], 100 * estimate.value
        if not isnan(estimate.low):
            axes.plot([x, x], [100 * estimate.low, 100 * estimate.high], color=color, linewidth=1.5, alpha=0.35)
        if name.startswith(AUTO):
            axes.plot(x, y, "D", color=ACCENT, markersize=7)
            axes.annotate(name, (x, y), xytext=(8, -12), textcoords="offset points", fontsize=8, color=ACCENT)


def _title(report: Report) -> str:
    interval = ", lines: 95 % intervals" if report.groups >= 2 else ""
    return f"{images_text(report)}{interval}"


def _color(report: Report, row: ScoredRow) -> str:
    return ACCENT if row.name == report.comparison.reference else INK


def _plain_frame(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)


def _png(figure: Figure) -> bytes:
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
