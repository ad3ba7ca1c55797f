"""run.json as values: written and read again, and results of version 0.1.0."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cohort.test_tables import RUN
from tests.runs import labels_of
from wsi_magnet import open_result
from wsi_magnet.cohort.status import status_of
from wsi_magnet.errors import ResultMismatchError
from wsi_magnet.export.write import export
from wsi_magnet.report.facts import read_facts
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.record import RunRecord
from wsi_magnet.schema import SchemaError

EARLIER = Path(__file__).parent.parent / "data" / "result-0.1.0"
"""Results of a slide of 1000 x 800 pixels as version 0.1.0 left them."""


def test_what_is_written_is_read_again() -> None:
    assert RunRecord.from_json(json.loads(json.dumps(RUN.to_json()))).to_json() == RUN.to_json()


def test_a_missing_part_is_named() -> None:
    values = RUN.to_json()
    del values["slide"]["identity"]
    with pytest.raises(SchemaError, match="slide: missing field 'identity'"):
        RunRecord.from_json(values)


def test_a_record_without_the_side_of_its_cells_has_cells_of_512() -> None:
    values = RUN.to_json()
    values["bundle"].pop("cell_px", None)
    assert RunRecord.from_json(values).bundle.cell_px == 512
    values["bundle"]["cell_px"] = 128
    record = RunRecord.from_json(values)
    assert (record.bundle.cell_px, record.to_json()["bundle"]["cell_px"]) == (128, 128)
    for wrong in (100, 512.0, "512", None):
        values["bundle"]["cell_px"] = wrong
        with pytest.raises(SchemaError, match=r"bundle.cell_px is .*, not 128, 256 or 512"):
            RunRecord.from_json(values)


def test_a_finished_result_of_version_1_is_read_everywhere(tmp_path: Path) -> None:
    result = open_result(EARLIER / "finished")
    assert (result.state, result.mpp, len(result.summary["scales"])) == ("finished", 0.5, 3)
    assert (np.asarray(result.labels[0]) == labels_of(EARLIER / "finished")).all()
    assert result.probabilities is not None
    assert result.uncertainty is not None
    assert status_of(EARLIER / "finished").state == "finished"
    assert export(EARLIER / "finished", tmp_path / "x.geojson", "geojson").objects
    assert export(EARLIER / "finished", tmp_path / "x.csv", "csv").files
    assert [use.complete for use in read_facts(EARLIER / "finished").scales] == [True] * 3


def test_an_unfinished_result_of_version_1_shows_its_finest_complete_scale() -> None:
    result = open_result(EARLIER / "unfinished")
    assert (result.state, result.mpp) == ("stopped", 1.0)
    assert (np.asarray(result.labels[0]) == labels_of(EARLIER / "unfinished", 1)).all()
    assert status_of(EARLIER / "unfinished").state == "stopped"


def test_version_1_has_passes_and_version_2_scales() -> None:
    values = json.loads((EARLIER / "finished" / "run.json").read_text())
    assert "passes" in values["summary"]
    record = ResultFolder(EARLIER / "finished").read_run()
    assert record is not None
    written = record.to_json()
    assert (written["version"], "passes" in written["summary"], "scales" in written["summary"]) == (2, False, True)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": [{"name": "red"}]},
        {"classes": [{"name": "red", "value": 1, "area_mm2": [], "percent": 1.0}]},
        {"scales": [{}]},
        {"gleason": "x"},
        {"not_analysed_mm2": None},
    ],
    ids=str,
)
def test_a_damaged_summary_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    values = json.loads((EARLIER / "finished" / "run.json").read_text())
    summary = {("scales" if key == "passes" else key): value for key, value in values["summary"].items()}
    with pytest.raises(SchemaError, match="summary"):
        RunRecord.from_json({**values, "summary": {**summary, **change}})


@pytest.mark.parametrize("version", ["2", 1.0, True, 3, 0, None])
def test_another_version_is_refused(version: object, tmp_path: Path) -> None:
    values = json.loads((EARLIER / "finished" / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**values, "version": version}))
    with pytest.raises(ResultMismatchError, match=f"has version {version!r} and this program writes 2"):
        ResultFolder(tmp_path).read_run()


def test_progress_of_an_unfinished_result_of_version_1_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "slide"
    shutil.copytree(EARLIER / "unfinished", folder)
    (one,) = status_of(folder).in_flight
    assert one.scales == 3
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"event": "scale started", "scale": "x", "scales": 0, "tiles": 0}\n')
    (one,) = status_of(folder).in_flight
    assert one.scales == 3, "a damaged line is left out"
