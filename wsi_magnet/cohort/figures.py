"""The few numbers of a result that a cohort's tables tell: small enough to be kept for each of ten thousand slides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsi_magnet.results.record import RunRecord


def figures_of(summary: Mapping[str, Any], record: RunRecord | None) -> dict[str, Any]:
    """Plain values, of a slide's summary.json and run.json."""
    finer = summary["scales"][1:]
    cells = sum(one["cells"] for one in finer)
    return {
        "bundle": record and record.bundle.name,
        "bundle_sha256": record and record.bundle.sha256,
        "refine": record and record.config.refine,
        "precision": record and record.precision,
        "slide_mpp": record and list(record.slide.mpp_xy),
        "mpp": summary["mpp"],
        "tissue_share": summary["tissue_share"],
        "refined_share": sum(one["cells_refined"] for one in finer) / cells if cells else None,
        "cells_not_analysed": summary["cells_not_analysed"],
        "analysed_mm2": summary["analysed_mm2"],
        "not_analysed_mm2": summary["not_analysed_mm2"],
        "classes": {one["name"]: one["area_mm2"] for one in summary["classes"]},
        "gleason": _grade(summary["gleason"]),
    }


def _grade(gleason: Mapping[str, Any] | None) -> dict[str, Any] | None:
    names = ("primary", "secondary", "score", "grade_group")
    return {name: gleason[name] for name in names} if gleason else None
