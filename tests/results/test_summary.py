"""Counts of a run: added up as tiles finish, without reading the journal, and true to the mask."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from wsi_magnet.geometry import Size
from wsi_magnet.labels import NOT_ANALYSED, LabelClass
from wsi_magnet.planning.plan import Plan
from wsi_magnet.results.journal import CellResult, Quarters, TileResult
from wsi_magnet.results.summary import RunCounts, RunSummary, by_reason

CLASSES = (LabelClass(1, "gland", (1, 2, 3)),)
CELL = 512 * 512


def plan_of(*mpps: float, cell_px: int = 512) -> Plan:
    scales = [
        SimpleNamespace(
            scale=SimpleNamespace(index=i, mpp=mpp, size=Size(2048, 1024)), layout=SimpleNamespace(cell_px=cell_px)
        )
        for i, mpp in enumerate(mpps)
    ]
    finest = SimpleNamespace(mpp=mpps[-1])
    return cast(Plan, SimpleNamespace(scales=scales, tissue_share=0.5, ladder=SimpleNamespace(finest=finest)))


def quarters(uncertainty: int) -> Quarters:
    one = (uncertainty * CELL // 4, CELL // 4)
    return (one, one, one, one)


def tile(scale: int, *cells: tuple[int, str | None, int]) -> TileResult:
    """A tile of a row of cells: (label, failure, uncertainty)."""
    labels: dict[int, int] = {}
    for label, _, _ in cells:
        labels[label] = labels.get(label, 0) + CELL
    results = [CellResult(0, i, failure is None, quarters(u), failure) for i, (_, failure, u) in enumerate(cells)]
    return TileResult(scale, 0, 0, tuple(results), labels)


def test_a_cell_that_a_finer_scale_repaired_is_not_counted_as_not_analysed() -> None:
    counts = RunCounts(plan_of(2.0, 1.0))
    counts.add(tile(0, (NOT_ANALYSED, "torn", 255)))
    counts.add(tile(1, (1, None, 10), (1, None, 20)))
    summary = counts.summary(CLASSES)
    assert (summary["cells_not_analysed"], summary["not_analysed_mm2"]) == (0, 0.0)
    assert counts.failures == ("2 µm/px, row 0, column 0: torn",)
    assert [one["cells_unreadable"] for one in summary["scales"]] == [1, 0]
    assert summary["cells_not_refined"] == 0


def test_cells_that_keep_their_coarser_result_are_counted_with_area_and_reason() -> None:
    counts = RunCounts(plan_of(2.0, 1.0))
    counts.add(tile(0, (1, None, 5)))
    counts.add(tile(1, (1, "strip 12 is torn", 5), (1, None, 5), (1, "strip 13 is torn", 255)))
    summary: dict[str, Any] = counts.summary(CLASSES)
    assert (summary["cells_not_refined"], summary["cells_not_analysed"]) == (2, 0)
    assert summary["not_refined_mm2"] == 2 * CELL * 1e-6
    assert summary["unreadable"] == [{"reason": "strip 12 is torn", "cells": 2}]
    assert [c["area_mm2"] for c in summary["classes"]] == [3 * CELL * 1e-6]


def test_what_is_left_out_is_counted() -> None:
    """Of eight cells one is tissue, one was looked at and is glass, one could not be read, and five hold no tissue."""
    counts = RunCounts(plan_of(1.0))
    counts.add(tile(0, (1, None, 5), (0, None, 5), (NOT_ANALYSED, "torn", 255)))
    summary = counts.summary((*CLASSES, LabelClass(0, "background", (0, 0, 0))))
    assert [c["name"] for c in summary["classes"]] == ["gland"]
    assert summary["classes"][0]["percent"] == 100
    areas = [summary[key] / (CELL * 1e-6) for key in ("analysed_mm2", "not_analysed_mm2", "background_mm2")]
    assert areas == pytest.approx([1, 1, 6])
    assert summary["not_looked_at_mm2"] / (CELL * 1e-6) == pytest.approx(5)


def test_cells_that_no_scale_could_read_are_counted_in_the_mask() -> None:
    counts = RunCounts(plan_of(2.0, 1.0))
    counts.add(tile(0, (NOT_ANALYSED, "torn", 255)))
    counts.add(tile(1, (NOT_ANALYSED, "torn", 255), (1, None, 255), (NOT_ANALYSED, None, 255)))
    summary = counts.summary(CLASSES)
    assert summary["not_analysed_mm2"] == 2 * CELL * 1e-6
    assert by_reason(counts.failures) == [("torn", 2)]


def test_pixels_that_refinement_changed_are_counted_scale_by_scale() -> None:
    cells = (
        CellResult(0, 0, True, quarters(9), changed_px=CELL // 2),
        CellResult(0, 1, True, quarters(9), unaffected=True),
        CellResult(0, 2, False, quarters(9), changed_px=0),
        CellResult(0, 3, True, quarters(9), changed_px=CELL // 2),
    )
    counts = RunCounts(plan_of(2.0, 1.0))
    counts.add(TileResult(1, 0, 0, cells, {}))
    assert [one["changed_share"] for one in counts.summary(CLASSES)["scales"]] == [0.0, 0.25]
    counts.add(TileResult(1, 0, 1, (CellResult(0, 4, True, quarters(9)),), {}))
    assert counts.summary(CLASSES)["scales"][1]["changed_share"] is None, "a journal of a version that did not count"


def test_the_changed_share_is_of_the_cells_own_pixels() -> None:
    part = (9 * 64**2, 64**2)
    counts = RunCounts(plan_of(2.0, 1.0, cell_px=128))
    cells = tuple(CellResult(0, i, True, (part,) * 4, changed_px=n) for i, n in enumerate((128**2, 0)))
    counts.add(TileResult(1, 0, 0, cells, {}))
    assert counts.summary(CLASSES)["scales"][1]["changed_share"] == 0.5


def test_a_summary_is_one_line_with_areas() -> None:
    classes = [{"name": "gland", "value": 2, "area_mm2": 1.23456, "percent": 45.678}]
    summary = RunSummary(Path("results/a"), True, ("1 µm/px, row 0, column 0: no JPEG",), {"classes": classes})
    assert summary.areas["gland"].area_mm2 == 1.23456
    assert repr(summary) == "<RunSummary of results/a: gland 1.23 mm² (45.7 %); 1 unreadable cell; done before>"
