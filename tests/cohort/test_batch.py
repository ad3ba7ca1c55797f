"""A batch from start to end: slides that fail, are skipped, resumed, refused or repeated, and errors that end it."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cohort.made import Batches, write_free_bundle, write_slide
from tests.few import slow_except
from tests.runs import labels_of
from tests.slides_made import write_stained_slide
from wsi_magnet.cohort import slide_task as slide_run
from wsi_magnet.cohort.events import (
    BatchEnded,
    BatchNote,
    BatchStarted,
    CohortEvent,
    SlideEnded,
    SlideEvent,
    SlideStarted,
)
from wsi_magnet.cohort.state import States
from wsi_magnet.cohort.status import status_of
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import ClusterError, CohortError, OutOfSpaceError, ResultBusyError
from wsi_magnet.geometry import Size
from wsi_magnet.results.events import TileFinished
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.segment.slide import segment_slide


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "summary.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_a_bad_slide_does_not_stop_the_others(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif", 1)
    (batches.slides / "b.svs").write_bytes(b"")
    write_slide(batches.slides / "c.tif", 2)
    summary = batches.run()
    assert summary.counts == {"finished": 2, "failed": 1}
    assert (summary.worked_on, summary.all_well) == (3, False)
    for name, seed in (("a", 1), ("c", 2)):
        alone = segment_slide(
            batches.slides / f"{name}.tif",
            batches.out.parent / "alone",
            bundle=batches.bundle,
            config=RunConfig(tile_px=512),
            execution=SerialExecutor(),
        )
        assert np.array_equal(labels_of(batches.out / name), labels_of(alone.folder)), seed
        assert json.loads((batches.folder / name / "summary.json").read_text())["classes"] == alone.summary["classes"]
    failed = rows(batches.folder)["b"]
    assert "cannot be opened" in failed["reason"]
    assert failed["retry"].startswith(f"wsi-magnet batch {batches.slides}/b.svs -o {batches.out} --bundle ")
    assert failed["retry"].endswith("--tile 512 --retry-failed")
    assert "b.svs cannot be opened" in (batches.folder / "summary.md").read_text()
    assert [event.outcome for event in batches.of_kind(SlideEnded) if event.state.name == "b"] == ["failed"]


def test_a_repeated_batch_does_nothing(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slide(batches.slides / "a.tif")
    (batches.slides / "b.svs").write_bytes(b"")
    batches.run()
    before = {
        path: path.stat().st_mtime_ns for path in batches.folder.rglob("*") if path.name in ("run.json", "a.json")
    }
    monkeypatch.setattr(slide_run, "segment_slide", None)
    summary = batches.run()
    assert (summary.worked_on, summary.counts) == (0, {"finished": 1, "failed": 1})
    assert {path: path.stat().st_mtime_ns for path in before} == before
    [begun] = batches.of_kind(BatchStarted)
    assert (begun.to_do, dict(begun.skipped)) == (0, {"finished": 1, "failed": 1})


def test_failed_slides_are_repeated_on_demand(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    (batches.slides / "b.tif").write_text("not yet")
    assert not batches.run().all_well
    write_slide(batches.slides / "b.tif")
    assert batches.run().worked_on == 0
    summary = batches.run(retry_failed=True)
    assert (summary.worked_on, summary.all_well) == (1, True)
    assert summary.states["b"].attempts == 2
    assert rows(batches.folder)["b"]["reason"] == ""


def test_a_finished_slide_with_a_touched_file_is_compared(batches: Batches) -> None:
    slide = write_slide(batches.slides / "a.tif")
    batches.run()
    first = States(batches.out).read()["a"]
    slide.touch()
    summary = batches.run()
    assert (summary.worked_on, summary.all_well) == (1, True), "the same pixels"
    assert not [event for event in batches.of_kind(SlideEvent) if isinstance(event.event, TileFinished)]
    assert summary.states["a"].seconds == first.seconds
    assert batches.run().worked_on == 0


def test_another_slide_in_the_place_of_a_finished_one(batches: Batches) -> None:
    old = write_slide(batches.slides / "a.tif", 1).read_bytes()
    batches.run()
    first = States(batches.out).read()["a"]
    write_slide(batches.slides / "a.tif", 2)
    summary = batches.run()
    assert summary.states["a"] == first, "its result is what it was"
    assert "holds the result of another slide" in summary.refused["a"]
    assert summary.refused["a"].endswith("--tile 512 --overwrite"), "the command that rebuilds it"
    assert not summary.all_well
    assert batches.run(existing="restart").refused.keys() == {"a"}
    batches.slides.joinpath("a.tif").write_bytes(old)
    assert batches.run().all_well, "the old file is back"
    write_slide(batches.slides / "a.tif", 2)
    assert batches.run(existing="overwrite").all_well


def test_another_configuration_is_refused_slide_by_slide(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    batches.run()
    write_slide(batches.slides / "b.tif")
    other = RunConfig(tile_px=512, refine=0.5)
    summary = batches.run(config=other)
    assert summary.states["b"].state == "finished"
    assert "--refine was auto and is 0.5" in summary.refused["a"]
    assert not summary.all_well
    assert summary.states["a"].state == "finished", "its result is what it was"
    assert batches.run().refused.keys() == {"b"}
    assert batches.run("a.tif").worked_on == 0
    again = batches.run(config=other, existing="restart")
    assert (again.worked_on, again.all_well) == (2, True)


def test_a_finished_result_that_is_gone_is_rebuilt_or_reported(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    batches.run()
    shutil.rmtree(batches.folder / "a" / "mask.ome.zarr")
    (batches.folder / "a" / "run.json").touch()
    assert "of its mask.ome.zarr are gone" in (batches.run().states["a"].error or "")
    shutil.rmtree(batches.folder / "a")
    assert batches.run(retry_failed=True).all_well
    shutil.rmtree(batches.folder / "a")
    assert batches.run().worked_on == 1


def test_results_of_single_runs_are_adopted(batches: Batches) -> None:
    slide = write_slide(batches.slides / "p1" / "a.tif", 1)
    options: dict[str, Any] = {
        "bundle": batches.bundle,
        "config": RunConfig(tile_px=512),
        "execution": SerialExecutor(),
    }
    segment_slide(slide, batches.out, **options)
    write_slide(batches.slides / "p2" / "a.tif", 2)
    summary = batches.run()
    assert list(summary.states) == ["a", "p2-a"]
    assert not [e for e in batches.of_kind(SlideEvent) if e.name == "a" and isinstance(e.event, TileFinished)]
    assert summary.states["a"].metrics.classes


def test_slides_that_were_moved_are_not_repeated(batches: Batches) -> None:
    for patient in ("p1", "p2"):
        write_slide(batches.slides / patient / "a.tif", 1)
    write_slide(batches.slides / "b.tif", 2)
    batches.run()
    batches.slides.rename(batches.slides.parent / "elsewhere")
    batches.slides = batches.slides.parent / "elsewhere"
    summary = batches.run()
    assert (list(summary.states), summary.worked_on) == (["b", "p1-a", "p2-a"], 0)
    assert rows(batches.folder)["b"]["slide"] == str(batches.slides / "b.tif")
    shutil.copy(batches.slides / "b.tif", batches.slides / "p1" / "b.tif")
    copied = batches.run()
    assert list(copied.states) == ["b", "p1-a", "p1-b", "p2-a"], "what is still there was not moved"
    assert copied.worked_on == 1


def stop_at(count: int, error: BaseException) -> Callable[[CohortEvent], None]:
    """An observer that raises with the n-th tile."""
    tiles = iter(range(count))

    def observe(event: CohortEvent) -> None:
        if isinstance(event, SlideEvent) and isinstance(event.event, TileFinished) and next(tiles, None) is None:
            raise error

    return observe


ENDS = [KeyboardInterrupt(), ClusterError("no worker has been there"), OutOfSpaceError("no space left")]


@pytest.mark.parametrize("error", slow_except(ENDS[:1], ENDS))
def test_a_batch_that_ended_early_can_be_resumed(batches: Batches, error: BaseException) -> None:
    for i in range(3):
        write_slide(batches.slides / f"{i}.tif", i)
    batches.observer = stop_at(9, error)
    with pytest.raises(type(error)):
        batches.run(in_flight=2)
    states = States(batches.out).read()
    assert {state.state for state in states.values()} <= {"waiting", "finished"}
    assert "waiting" in {state.state for state in states.values()}
    assert rows(batches.folder).keys() == {"0", "1", "2"}
    [ended] = batches.of_kind(BatchEnded)
    assert ended.error
    batches.observer = None
    journals = [journal.read_text() for journal in batches.folder.glob("*/journal.jsonl")]
    tiles = sum(text.count('{"tile"') for text in journals)
    summary = batches.run()
    assert summary.all_well
    told = [event for event in batches.of_kind(SlideEvent) if isinstance(event.event, TileFinished)]
    assert len(told) == 3 * 5 - tiles, "what was in the journals was not done again"


def test_fail_fast_ends_with_the_first_failure(batches: Batches) -> None:
    (batches.slides / "a.svs").write_bytes(b"")
    for i in range(4):
        write_slide(batches.slides / f"{i}z.tif", i)
    with pytest.raises(CohortError, match=r"a: .*cannot be opened.*--fail-fast"):
        batches.run("a.svs", "", fail_fast=True, in_flight=1)
    assert {state.state for state in States(batches.out).read().values()} == {"failed", "waiting"}


def test_an_unexpected_error_fails_one_slide(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slide(batches.slides / "a.tif")
    write_slide(batches.slides / "b.tif")

    def broken(slide: Any, *args: Any, **options: Any) -> Any:
        if str(slide).endswith("a.tif"):
            raise ZeroDivisionError("division by zero")
        return segment_slide(slide, *args, **options)

    monkeypatch.setattr(slide_run, "segment_slide", broken)
    summary = batches.run()
    assert summary.states["a"].error == "internal error (ZeroDivisionError): division by zero"
    assert summary.states["a"].error_type == "ZeroDivisionError"
    assert summary.states["b"].state == "finished"
    assert 'raise ZeroDivisionError("division by zero")' in (batches.folder / "log.jsonl").read_text().replace(
        '\\"', '"'
    )


def test_unreadable_cells_are_reported_and_need_a_restart(batches: Batches) -> None:
    slide = batches.slides / "a.tif"
    write_stained_slide(slide, Size(700, 560), tissue_share=1, mpp=0.5, levels=1, broken=[(0, 0, 1)])
    summary = batches.run()
    state = summary.states["a"]
    assert (state.state, summary.all_well) == ("finished with errors", False)
    assert " could not be read: " in (state.error or "")
    assert state.retry.endswith(" --restart")
    [ended] = batches.of_kind(SlideEnded)
    assert [reason.split()[1:6] for reason in ended.reasons] == [["cells", "could", "not", "be", "read:"]]
    for folder in (batches.out, batches.out / "a"):
        assert status_of(folder).failed[0]["reason"] == state.error, "one line, with the count"
    assert batches.run(retry_failed=True).worked_on == 0
    assert not batches.run().all_well
    write_stained_slide(slide, Size(700, 560), tissue_share=1, mpp=0.5, levels=1)
    assert batches.run(existing="overwrite").all_well


def test_a_list_gives_slides_their_own_options(batches: Batches, tmp_path: Path) -> None:
    write_slide(batches.slides / "a.tif")
    write_slide(batches.slides / "b.tif")
    other = write_free_bundle(tmp_path / "slides", name="other")
    text = f"slide,mpp,bundle,name\na.tif,1.0,,coarse\nb.tif,,{other.name},\n"
    (batches.slides / "list.csv").write_text(text)
    summary = batches.run("list.csv")
    assert list(summary.states) == ["coarse", "b"]
    assert summary.all_well
    assert rows(batches.folder)["coarse"]["slide_mpp"] == "1"
    assert rows(batches.folder)["b"]["bundle"] == "other"
    assert "--mpp 1.0" in summary.states["coarse"].retry
    assert str(other) in summary.states["b"].retry
    assert batches.run("list.csv").worked_on == 0


def test_warnings_of_the_program_are_noted_and_logged(batches: Batches, capfd: pytest.CaptureFixture[str]) -> None:
    write_slide(batches.slides / "a.tif")

    def warn(event: CohortEvent) -> None:
        if isinstance(event, SlideStarted):
            threading.Thread(
                target=logging.getLogger("wsi_magnet.runtime.clusters.cluster").warning, args=("3 jobs wait",)
            ).start()

    batches.observer = warn
    batches.run()
    assert [event.text for event in batches.of_kind(BatchNote)] == ["3 jobs wait"]
    assert '"event": "notice", "text": "3 jobs wait"' in (batches.folder / "log.jsonl").read_text()
    assert "3 jobs wait" not in capfd.readouterr().err


def test_two_batches_in_one_folder(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    with ResultFolder(batches.out).locked(), pytest.raises(ResultBusyError, match="another"):
        batches.run()


@pytest.mark.slow
def test_no_more_slides_are_in_flight_than_chosen(batches: Batches) -> None:
    for i in range(5):
        write_slide(batches.slides / f"{i}.tif", i)
    meeting = threading.Barrier(2, timeout=90)
    under_way, most = 0, 0

    def observe(event: CohortEvent) -> None:
        nonlocal under_way, most
        under_way += isinstance(event, SlideStarted)
        under_way -= isinstance(event, SlideEnded)
        most = max(most, under_way)

    priorities: list[int] = []

    class Meeting(SerialExecutor):
        def with_priority(self, priority: int) -> Meeting:
            priorities.append(priority)
            if priority > -2:
                meeting.wait()  # both of the first are in flight, or this breaks
            return self

    batches.observer = observe
    batches.executor = Meeting()
    assert batches.run(in_flight=2).all_well
    assert most == 2
    assert sorted(priorities) == [-4, -3, -2, -1, 0]


def test_earlier_slides_of_the_folder_are_in_the_tables(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    (batches.slides / "b.svs").write_bytes(b"")
    batches.run("b.svs")
    summary = batches.run("a.tif")
    assert summary.all_well, "of the slides that were asked for"
    assert rows(batches.folder).keys() == {"a", "b"}


def test_a_missing_bundle_is_an_error_before_anything_starts(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    bad = replace(batches, bundle=batches.slides / "none.safetensors")
    with pytest.raises(ValueError, match=r"none\.safetensors"):
        bad.run()
    assert not (batches.folder / "summary.csv").exists()
