"""Reports of output folders: their results, and their slides without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cohort.made import Batches, write_slide
from tests.cohort.test_status import stop_at_first
from tests.commands import Call
from tests.report.reading import Reading
from tests.runs import MadeRun, run_serially
from wsi_magnet.cohort.reporting import report_sources


def test_failures_of_a_batch_are_in_its_report(batches: Batches, call: Call, tmp_path: Path) -> None:
    write_slide(batches.slides / "a.tif", 1)
    write_slide(batches.slides / "b.tif", 2)
    (batches.slides / "c.svs").write_bytes(b"")
    failed = batches.run().states["c"]
    assert failed.error is not None
    made = call("report", batches.out, "-o", tmp_path / "report.html", "--size", "200")
    assert made.exit_code == 0, made.output
    assert "1 slide without a result" in made.stderr
    text = Reading((tmp_path / "report.html").read_text()).text
    for part in ("3 slides", "2 finished, 1 failed", "a.tif", "b.tif", failed.error, failed.retry):
        assert part in text, part


def test_a_batch_of_which_all_failed_has_a_report_too(batches: Batches, call: Call, tmp_path: Path) -> None:
    (batches.slides / "c.svs").write_bytes(b"")
    batches.run()
    assert call("report", batches.out, "-o", tmp_path / "report.html").exit_code == 0
    assert "1 failed" in Reading((tmp_path / "report.html").read_text()).text


def test_a_run_without_a_complete_scale_is_listed(batches: Batches, call: Call, tmp_path: Path) -> None:
    made = MadeRun(write_slide(tmp_path / "a.tif"), batches.bundle)
    run_serially(made, batches.folder)

    with pytest.raises(KeyboardInterrupt):
        run_serially(MadeRun(write_slide(tmp_path / "b.tif"), batches.bundle), batches.folder, observe=stop_at_first)
    sources = report_sources([batches.out])
    assert sources.results == (batches.out / "a",)
    [other] = sources.others
    assert other.name == "b"
    assert "no scale of the mask is complete" in other.reason
    assert report_sources([batches.out / "b"]).results == (batches.out / "b",), "its reader reports what is wrong"
    assert call("report", batches.out, "-o", tmp_path / "report.html", "--size", "200").exit_code == 0
