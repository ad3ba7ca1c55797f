"""A report as tables and notes for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from wsi_magnet.evaluate.bootstrap import LEVEL, Estimate
from wsi_magnet.evaluate.columns import GLEASON_2019, MIOU, QUADRATIC_KAPPA, iou_key
from wsi_magnet.evaluate.comparison import ScoredRow
from wsi_magnet.evaluate.report import Report

UNKNOWN = "-"
"""Shown where a number cannot be said."""

FEW_GROUPS = 10
"""With fewer, the percentiles of a bootstrap are known to lie too close together."""

CAUTIONS = {
    QUADRATIC_KAPPA: "quadratic kappa takes the classes as ordered by their label values",
    GLEASON_2019: "the weights of the Gleason 2019 score are from memory of the challenge, unverified",
}
"""What must be known of a measure where it is shown."""


@dataclass(frozen=True, slots=True)
class Table:
    """A head and rows, all text."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report) -> list[Table]:
    """The poster's table first, then IoU by class, then the others; a number in brackets is an interval's end."""
    others = [m.key for m in report.measures if m.key != MIOU and not m.key.startswith("iou: ")]
    return [
        _poster_table(report),
        _measure_table(report, [iou_key(name) for name in report.comparison.target.names]),
        _measure_table(report, others[: len(others) // 2]),
        _measure_table(report, others[len(others) // 2 :]),
    ]


def curve_table(report: Report) -> Table:
    """MIoU against the share of cells that were refined."""
    rows = [
        (
            row.name,
            UNKNOWN if row.refined_share is None else f"{100 * row.refined_share:.1f}",
            estimate_text(report.estimate(row, MIOU), percent=True),
            number_text(report.seconds_a_megapixel(row), 3),
        )
        for row in report.comparison.rows
    ]
    return Table(("refined", "cells refined %", "mIoU %", "s/megapixel"), tuple(rows))


def notes(report: Report, *, curve: bool = False) -> list[str]:
    """What must be known to read the tables, or the table of a curve."""
    comparison, pixels = report.comparison, report.labelled()
    known = [name for name, n in zip(comparison.target.names, pixels, strict=True) if n]
    missing = [name for name, n in zip(comparison.target.names, pixels, strict=True) if not n]
    grids = ", ".join(f"{mpp:g}" for mpp in sorted({image.mpp for image in comparison.images}))
    found = [
        f"{images_text(report)}; {sum(pixels) / 1e6:.3g} megapixels are labelled "
        f"at {grids} µm/px, and all rows are judged on these",
        f"mIoU and Dice are means over {', '.join(known)}"
        + (f"; {', '.join(missing)}: nowhere labelled, and pixels taken for it are errors" if missing else ""),
    ]
    if not curve:
        found += [CAUTIONS[one.key] for one in report.measures if one.key in CAUTIONS]
    return [*found, _interval_note(report, curve=curve)]


def _interval_note(report: Report, *, curve: bool) -> str:
    if report.groups < 2:
        return "there are no intervals: they need at least two groups (column group)"
    few = f"; of {report.groups} groups they are only a hint" if report.groups < FEW_GROUPS else ""
    paired = "" if curve or _alone(report) else f"; differences to {report.comparison.reference} are paired"
    how = f"by {report.resamples} resamples of groups (seed {report.seed})"
    return f"in brackets {LEVEL:g} % intervals, {how}{few}{paired}"


def estimate_text(estimate: Estimate, *, percent: bool) -> str:
    """As "70.60 [69.10, 72.03]", the interval in brackets where there is one."""
    factor, digits = (100, 2) if percent else (1, 3)
    value, low, high = (factor * n for n in (estimate.value, estimate.low, estimate.high))
    interval = "" if isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return number_text(value, digits) + interval


def images_text(report: Report) -> str:
    """As "2 images of 1 group"."""
    images, groups = len(report.comparison.images), report.groups
    return f"{images} image{'s' * (images != 1)} of {groups} group{'s' * (groups != 1)}"


def number_text(value: float, digits: int) -> str:
    """With so many digits behind the point."""
    return UNKNOWN if isnan(value) else f"{value:.{digits}f}"


def _poster_table(report: Report) -> Table:
    rows = report.comparison.rows
    columns = {
        "method": [row.name for row in rows],
        "mIoU %": [estimate_text(report.estimate(row, MIOU), percent=True) for row in rows],
        f"difference to {report.comparison.reference}": [_difference(report, row) for row in rows],
        "memory MB": [_megabytes(row.peak.ram if row.peak else None) for row in rows],
        "s/megapixel": [number_text(report.seconds_a_megapixel(row), 3) for row in rows],
        "GPU memory MB": [_megabytes(row.peak.gpu if row.peak else None) for row in rows],
    }
    if _alone(report):
        del columns[f"difference to {report.comparison.reference}"]
    if not any(row.peak and row.peak.gpu for row in rows):
        del columns["GPU memory MB"]
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)))


def _alone(report: Report) -> bool:
    """True where there is no other row to differ from."""
    return len(report.comparison.rows) == 1


def _difference(report: Report, row: ScoredRow) -> str:
    found = report.difference(row, MIOU)
    return UNKNOWN if found is None else estimate_text(found, percent=True)


def _megabytes(count: int | None) -> str:
    return f"{count / 1e6:.0f}" if count else UNKNOWN


def _measure_table(report: Report, keys: Sequence[str]) -> Table:
    shown = [report.measure(key) for key in keys]
    rows = [
        (row.name, *(estimate_text(report.estimate(row, one.key), percent=one.percent) for one in shown))
        for row in report.comparison.rows
    ]
    return Table(("method", *(one.title for one in shown)), tuple(rows))
