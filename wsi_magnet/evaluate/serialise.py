"""Serialisation of a report to JSON and CSV."""

from __future__ import annotations

import csv
from io import StringIO
from math import isnan
from typing import Any

from wsi_magnet.evaluate.bootstrap import LEVEL, Estimate
from wsi_magnet.evaluate.columns import MIOU
from wsi_magnet.evaluate.comparison import ScoredRow
from wsi_magnet.evaluate.counts import Counts
from wsi_magnet.evaluate.report import Report
from wsi_magnet.evaluate.tables import notes

_ENDS = ("value", "low", "high")


def to_json(report: Report) -> dict[str, Any]:
    """Values for JSON; None for undefined numbers."""
    comparison, pixels = report.comparison, report.labelled()
    return {
        "classes": [{"name": n, "pixels": p} for n, p in zip(comparison.target.names, pixels, strict=True)],
        "images": [
            {"image": str(i.sample.image), "group": i.sample.group, "mpp": i.mpp, "megapixels": i.megapixels}
            for i in comparison.images
        ],
        "reference": comparison.reference,
        "bootstrap": {"groups": report.groups, "resamples": report.resamples, "seed": report.seed, "level": LEVEL},
        "rows": [_row_json(report, row) for row in comparison.rows],
        "notes": notes(report),
    }


def to_csv(report: Report) -> str:
    """CSV with a line per row and measure."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["method", "bundle", "measure", *_ENDS, *(f"difference_{end}" for end in _ENDS)])
    for row in report.comparison.rows:
        for key, values in _measures_json(report, row).items():
            difference = values["difference"] or dict.fromkeys(_ENDS)
            numbers = [values[end] for end in _ENDS] + [difference[end] for end in _ENDS]
            lines.writerow([row.name, row.bundle, key, *("" if n is None else repr(n) for n in numbers)])
    return text.getvalue()


def _row_json(report: Report, row: ScoredRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "bundle": row.bundle,
        "measures": _measures_json(report, row),
        "confusion": Counts.stack(row.counts).confusion.sum(axis=0).tolist(),
        "images": [
            {
                "miou": _plain(float(report.measure(MIOU).value(counts))),
                "labelled_pixels": int(counts.confusion.sum()),
                "seconds": None if row.seconds is None else row.seconds[i],
            }
            for i, counts in enumerate(row.counts)
        ],
        "seconds_a_megapixel": _plain(report.seconds_per_megapixel(row)),
        "peak_memory_bytes": None if row.peak is None else row.peak.ram,
        "peak_gpu_memory_bytes": None if row.peak is None else row.peak.gpu,
        "refined_share": row.refined_share,
    }


def _measures_json(report: Report, row: ScoredRow) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {}
    for one in report.measures:
        difference = report.difference(row, one.key)
        values[one.key] = {
            **_estimate_json(report.estimate(row, one.key)),
            "difference": None if difference is None else _estimate_json(difference),
        }
    return values


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    return {end: _plain(getattr(estimate, end)) for end in _ENDS}


def _plain(value: float) -> float | None:
    return None if isnan(value) else value
