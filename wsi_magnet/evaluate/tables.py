"""Text tables and notes of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from wsi_magnet.evaluate.bootstrap import LEVEL, Estimate
from wsi_magnet.evaluate.columns import (
    ACCURACY,
    COARSE_ALONE,
    FINE_ALONE,
    GLEASON_2019,
    HALVES,
    HEADROOM,
    MENDED,
    MIOU,
    ORACLE,
    QUADRATIC_KAPPA,
    SPOILED,
    iou_key,
)
from wsi_magnet.evaluate.comparison import ScoredRow
from wsi_magnet.evaluate.halves import COARSE, FINE
from wsi_magnet.evaluate.poster import IMAGE_WH, POSTER, SOURCE, PosterFigure
from wsi_magnet.evaluate.report import Report

UNKNOWN = "-"
"""Shown for undefined numbers."""

POSTERS_NOTE = "the poster's own:"
"""Beginning of the note on the poster's own figures."""

FEW_ROWS = 4
"""Number of rows up to which neither the poster's own figures nor accuracy against time are shown."""

FEW_GROUPS = 10
"""Number of groups below which bootstrap percentiles are known to be too close together."""

CAUTIONS = {
    QUADRATIC_KAPPA: "quadratic kappa takes the classes as ordered by their label values",
    GLEASON_2019: "the weights of the Gleason 2019 score are from memory of the challenge and unverified",
}
"""Cautions to print with a measure."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report) -> list[Table]:
    """The poster's table, refining rows against their halves, IoU by class, the other measures, and for many rows the
    poster's own figures; intervals are in brackets.
    """
    rows = report.comparison.rows
    shown = [m for m in report.measures if m.key != MIOU and not m.key.startswith("iou: ") and m not in HALVES]
    others = [m.key for m in shown]
    refining = [row for row in rows if row.has_halves]
    return [
        _poster_table(report),
        *([_measure_table(report, refining, [ACCURACY, MENDED, SPOILED, HEADROOM])] if refining else []),
        _measure_table(report, rows, [iou_key(name) for name in report.comparison.target.names]),
        _measure_table(report, rows, others[: len(others) // 2]),
        _measure_table(report, rows, others[len(others) // 2 :]),
        *([posters_own(names)] if len(names := poster_names(report)) > FEW_ROWS else []),
    ]


def posters_own(names: Sequence[str]) -> Table:
    """The poster's own figures of its methods: mIoU, memory and time."""
    lines = [(name, *(_poster_text(POSTER[name].get(data_set)) for data_set in IMAGE_WH)) for name in names]
    return Table(("the poster's own", *IMAGE_WH), tuple(lines))


def poster_names(report: Report) -> list[str]:
    """Methods of the poster's table that are rows, in its order; a bundle's name in brackets is passed over."""
    own = {row.name.partition(" [")[0] for row in report.comparison.rows}
    return [name for name in POSTER if name in own]


def _poster_text(figure: PosterFigure | None) -> str:
    return UNKNOWN if figure is None else f"{figure.miou_percent:.2f} / {figure.memory_mb} / {figure.seconds:.2f}"


def curve_table(report: Report) -> Table:
    """Table of mIoU against the share of refined cells."""
    rows = [
        (
            row.name,
            UNKNOWN if row.refined_share is None else f"{100 * row.refined_share:.1f}",
            estimate_text(report.estimate(row, MIOU), percent=True),
            number_text(report.seconds_per_megapixel(row), 3),
        )
        for row in report.comparison.rows
    ]
    return Table(("refined", "cells refined %", "mIoU %", "s/megapixel"), tuple(rows))


def notes(report: Report, *, curve: bool = False) -> list[str]:
    """Notes needed to read the tables, or a curve's table."""
    comparison, pixels = report.comparison, report.labelled()
    left_out = {name.lower() for name in report.mean_without}
    known = [
        name for name, n in zip(comparison.target.names, pixels, strict=True) if n and name.lower() not in left_out
    ]
    missing = [name for name, n in zip(comparison.target.names, pixels, strict=True) if not n]
    grids = ", ".join(f"{mpp:g}" for mpp in sorted({image.mpp for image in comparison.images}))
    found = [
        f"{images_text(report)}; {sum(pixels) / 1e6:.3g} labelled megapixels "
        f"at {grids} µm/px, on which all rows are scored",
        f"mIoU and Dice are means over {', '.join(known)}"
        + (f"; {', '.join(missing)}: nowhere labelled, and pixels predicted as it are errors" if missing else ""),
    ]
    if not curve:
        found += [*_halves_notes(report), *(CAUTIONS[one.key] for one in report.measures if one.key in CAUTIONS)]
    found.append(_interval_note(report, curve=curve))
    if not curve and len(poster_names(report)) > FEW_ROWS:
        found.append(f"{POSTERS_NOTE} mIoU % / GPU memory in MB / seconds an image ({SOURCE}); not measured here")
    return found


def _halves_notes(report: Report) -> list[str]:
    """Pixels that the halves have right, by bundle, and the columns about them."""
    refining = [row for row in report.comparison.rows if row.has_halves]
    several = len({row.bundle for row in report.comparison.rows}) > 1
    shares = {}
    for row in refining:
        fine, coarse, both = (
            estimate_text(report.estimate(row, key), percent=True) for key in (FINE_ALONE, COARSE_ALONE, ORACLE)
        )
        own = f"{row.bundle}: " if several else ""
        shares[own] = f"{own}of the labelled pixels {FINE} alone has {fine} % right, {COARSE} alone {coarse} %"
        shares[own] += f", and one of the two {both} %, the oracle"
    if not shares:
        return []
    columns = (
        f"mended: pixels that {FINE} alone has right, and the row too; spoiled: pixels that {COARSE} alone has right, "
        "and the row not; headroom: the share that the row realises of the accuracy from the better of the two to the "
        "oracle"
    )
    return [*shares.values(), columns]


def _interval_note(report: Report, *, curve: bool) -> str:
    if report.groups < 2:
        return "no intervals: they need at least two groups (column group)"
    few = f"; with {report.groups} groups they are only a hint" if report.groups < FEW_GROUPS else ""
    paired = "" if curve or _alone(report) else f"; differences to {report.comparison.reference} are paired"
    how = f"by {report.resamples} resamples of groups (seed {report.seed})"
    return f"in brackets: {LEVEL:g} % intervals {how}{few}{paired}"


def estimate_text(estimate: Estimate, *, percent: bool) -> str:
    """Text of an estimate, "70.60 [69.10, 72.03]"; the brackets are left out without an interval."""
    factor, digits = (100, 2) if percent else (1, 3)
    value, low, high = (factor * n for n in (estimate.value, estimate.low, estimate.high))
    interval = "" if isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return number_text(value, digits) + interval


def images_text(report: Report) -> str:
    """Number of images and groups, "2 images of 1 group"."""
    images, groups = len(report.comparison.images), report.groups
    return f"{images} image{'s' * (images != 1)} of {groups} group{'s' * (groups != 1)}"


def number_text(value: float, digits: int) -> str:
    """Number with that many decimal places."""
    return UNKNOWN if isnan(value) else f"{value:.{digits}f}"


def _poster_table(report: Report) -> Table:
    rows = report.comparison.rows
    columns = {
        "method": [row.name for row in rows],
        "mIoU %": [estimate_text(report.estimate(row, MIOU), percent=True) for row in rows],
        f"difference to {report.comparison.reference}": [_difference(report, row) for row in rows],
        "memory MB": [_megabytes(row.peak.ram if row.peak else None) for row in rows],
        "s/megapixel": [number_text(report.seconds_per_megapixel(row), 3) for row in rows],
        "GPU memory MB": [_megabytes(row.peak.gpu if row.peak else None) for row in rows],
    }
    if _alone(report):
        del columns[f"difference to {report.comparison.reference}"]
    if not any(row.peak and row.peak.gpu for row in rows):
        del columns["GPU memory MB"]
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)))


def _alone(report: Report) -> bool:
    """True for a single row, which has no difference."""
    return len(report.comparison.rows) == 1


def _difference(report: Report, row: ScoredRow) -> str:
    found = report.difference(row, MIOU)
    return UNKNOWN if found is None else estimate_text(found, percent=True)


def _megabytes(count: int | None) -> str:
    return f"{count / 1e6:.0f}" if count else UNKNOWN


def _measure_table(report: Report, rows: Sequence[ScoredRow], keys: Sequence[str]) -> Table:
    shown = [report.measure(key) for key in keys]
    lines = [
        (row.name, *(estimate_text(report.estimate(row, one.key), percent=one.percent) for one in shown))
        for row in rows
    ]
    return Table(("method", *(one.title for one in shown)), tuple(lines))
