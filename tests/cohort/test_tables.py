"""Tables of a cohort: every slide is in them, whatever its outcome."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from wsi_magnet.cohort import tables
from wsi_magnet.cohort.state import ResultMetrics, SlideState
from wsi_magnet.config import RunConfig
from wsi_magnet.labels import LabelClass
from wsi_magnet.results.record import BundleRecord, RunRecord, ScaleRecord, SlideRecord

SUMMARY: dict[str, Any] = {
    "tissue_share": 0.25,
    "mpp": 0.5,
    "classes": [{"name": "stroma", "area_mm2": 1.5}, {"name": "Gleason 3", "area_mm2": 0.5}],
    "analysed_mm2": 2.0,
    "not_analysed_mm2": 0.1,
    "gleason": {"primary": 3, "secondary": 4, "score": 7, "grade_group": 2, "tumour_mm2": 0.5},
    "cells_not_analysed": 3,
    "scales": [
        {"cells": 5, "cells_refined": 5},
        {"cells": 20, "cells_refined": 10},
        {"cells": 60, "cells_refined": 10},
    ],
}
RUN = RunRecord(
    state="finished",
    fingerprint={},
    slide=SlideRecord(path="/s/a.svs", identity="a", size_wh=(9, 9), bounds_xywh=(0, 0, 9, 9), mpp_xy=(0.25, 0.25)),
    bundle=BundleRecord("mine", "5ea1", (LabelClass(1, "stroma", (1, 2, 3)),)),
    config=RunConfig(refine=0.5),
    scales=(ScaleRecord(0.5, (9, 9)),),
    precision="mixed",
)

STATES = [
    SlideState(
        name="a", slide="/s/a.svs", state="finished", attempts=1, seconds=12.34, metrics=ResultMetrics.of(SUMMARY, RUN)
    ),
    SlideState(name="b|c", slide="/s/b|c.svs", state="failed", attempts=2, error="it, is | bad", retry="do 'it' again"),
    SlideState(name="d", slide="/s/d\udcff.svs"),
]


def rows(states: list[SlideState]) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(tables.csv_text(states))))


def test_a_row_a_slide() -> None:
    first, second, third = rows(STATES)
    assert first == {
        "name": "a",
        "slide": "/s/a.svs",
        "state": "finished",
        "reason": "",
        "retry": "",
        "seconds": "12.3",
        "attempts": "1",
        "bundle": "mine",
        "bundle_sha256": "5ea1",
        "refine": "0.5",
        "precision": "mixed",
        "slide_mpp": "0.25",
        "mask_mpp": "0.5",
        "tissue_share": "0.25",
        "refined_share": "0.25",
        "alarms": "",
        "cells_not_analysed": "3",
        "not_analysed_mm2": "0.1",
        "analysed_mm2": "2",
        "stroma_mm2": "1.5",
        "Gleason 3_mm2": "0.5",
        "gleason_primary": "3",
        "gleason_secondary": "4",
        "gleason_score": "7",
        "grade_group": "2",
    }
    assert (second["state"], second["reason"], second["retry"]) == ("failed", "it, is | bad", "do 'it' again")
    assert (third["state"], third["seconds"], third["slide"]) == ("waiting", "", "/s/d\\udcff.svs")


def test_grades_have_columns_only_where_there_are_some() -> None:
    assert "grade_group" not in rows(STATES[1:])[0]
    ungraded = SlideState(name="x", slide="/x", metrics=ResultMetrics.of({**SUMMARY, "gleason": None}, RUN))
    assert "grade_group" not in rows([ungraded])[0]


def test_failures_stand_first_with_the_command_that_does_them_again() -> None:
    text = tables.markdown(STATES)
    assert text.startswith("# Cohort\n\n3 slides: 1 finished, 1 waiting, 1 failed.")
    assert text.index("do 'it' again") < text.index("## Slides")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == table[0].count("|") for line in table)
    assert "3 + 4, group 2" in text


def alarmed(name: str, gland_mm2: float = 0.0, **alarms: str) -> SlideState:
    metrics = ResultMetrics(analysed_mm2=1.0, classes={"stroma": 1.0, "gland": gland_mm2}, alarms=alarms)
    return SlideState(name=name, slide=f"/s/{name}", state="finished", metrics=metrics)


def test_alarms_stand_together_by_kind_whatever_the_number_of_slides() -> None:
    states = [alarmed(f"slide{i:02}", upsampled="coarse | fine") for i in range(12)] + [
        alarmed("z", fluorescence="dark")
    ]
    lines = tables.alarm_lines(states)
    assert [line.partition(":")[0] for line in lines] == [
        "upsampled, 12 of 13 slides",
        "fluorescence, 1 of 13 slides",
        "class never predicted",
    ]
    assert "slide09 and 2 more. slide00: coarse | fine" in lines[0]
    assert lines[2].endswith("no pixel of 13 slides is gland")
    text = tables.markdown(states)
    assert "## Alarms\n\n- upsampled, 12 of 13 slides" in text
    assert text.index("## Alarms") < text.index("## Slides")
    assert [row["alarms"] for row in rows(states)][-2:] == ["upsampled", "fluorescence"]


def test_a_cohort_without_alarms_has_no_such_section() -> None:
    assert tables.alarm_lines([alarmed("a", 0.5), alarmed("b"), alarmed("c")]) == []
    assert tables.alarm_lines([alarmed("a"), alarmed("b")]) == [], "two slides may well lack a class"
    assert "Alarms" not in tables.markdown([alarmed("a", 0.5)])


def test_tables_are_refreshed_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    def later() -> float:
        now[0] += 0.5  # whatever is done takes half a second
        return now[0]

    monkeypatch.setattr("wsi_magnet.cohort.tables.time.monotonic", later)
    written = tables.Tables(tmp_path)
    states = {state.name: state for state in STATES}
    written.refresh(states)
    (tmp_path / "summary.csv").unlink()
    written.refresh(states)
    assert not (tmp_path / "summary.csv").exists()
    now[0] += tables.PAUSE_RATIO * 0.5
    written.refresh(states)
    assert (tmp_path / "summary.csv").exists()


def test_grades_have_a_column_where_there_are_any() -> None:
    assert "Gleason (by area)" in tables.markdown(STATES)
    ungraded = STATES[0].but(metrics=replace(STATES[0].metrics, gleason=None))
    assert "Gleason (by area)" not in tables.markdown([ungraded])
