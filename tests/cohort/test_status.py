"""Status of a batch, read from its folder alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cohort.made import Batches, write_slide
from tests.cohort.test_batch import stop_at
from tests.commands import Call, one_line
from tests.results.test_record import EARLIER
from tests.runs import MadeRun, run_serially
from tests.test_cli_startup import modules_after
from wsi_magnet.cohort.events import CohortEvent, SlideEvent
from wsi_magnet.cohort.status import Status, status_of
from wsi_magnet.results.events import Event, TileFinished
from wsi_magnet.results.folder import ResultFolder


def test_a_batch_that_is_running(batches: Batches) -> None:
    for i in range(3):
        write_slide(batches.slides / f"{i}.tif", i)
    (batches.slides / "bad.svs").write_bytes(b"")
    seen: list[Status] = []

    def look(event: CohortEvent) -> None:
        if isinstance(event, SlideEvent) and isinstance(event.event, TileFinished):
            seen.append(status_of(batches.out))

    batches.observer = look
    batches.run("bad.svs", "", in_flight=1)
    assert {status.state for status in seen} == {"running"}
    assert all(status.is_well for status in seen)
    assert seen[0].worker is not None
    assert "process" in seen[0].worker
    last = seen[-1]
    assert last.counts == {"finished": 2, "failed": 1, "running": 1}
    [one] = last.in_flight
    assert (one.name, one.scale, one.scales, one.tiles_done, one.tiles, one.share) == ("2", 1, 2, 4, 4, 1.0)
    assert last.slides_an_hour is not None
    assert last.left_s is not None
    assert [failed["name"] for failed in last.failed] == ["bad"]
    assert seen[0].in_flight[0].share == pytest.approx(0.2)


def test_a_stopped_batch_has_a_resuming_command(batches: Batches, call: Call) -> None:
    for i in range(3):
        write_slide(batches.slides / f"{i}.tif", i)
    batches.observer = stop_at(6, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        batches.run(in_flight=1)
    status = status_of(batches.out)
    assert (status.state, status.is_well, status.worker) == ("stopped", False, None)
    assert status.counts == {"finished": 1, "waiting": 2}
    assert status.resume_command is not None
    assert status.resume_command.startswith("wsi-magnet batch ")
    told = call("status", batches.out)
    assert told.exit_code == 1
    assert "To resume:" in told.stdout
    assert status.resume_command in told.stdout
    batches.observer = None
    assert batches.run().all_well
    done = call("status", batches.out, "--json")
    assert done.exit_code == 0
    values = json.loads(done.stdout)
    assert (values["state"], values["counts"], values["failed"]) == ("finished", {"finished": 3}, [])


def test_a_result_folder_of_one_run(batches: Batches, call: Call) -> None:
    write_slide(batches.slides / "a.tif")
    batches.observer = stop_at(3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        batches.run()
    status = status_of(batches.out / "a")
    assert (status.kind, status.state, status.counts) == ("run", "stopped", {"stopped": 1})
    [one] = status.in_flight
    assert (one.scale, one.tiles_done, one.tiles) == (1, 3, 4), "a tile is in the journal before it is told of"
    batches.observer = None
    batches.run()
    assert status_of(batches.out / "a").is_well
    assert "finished" in call("status", batches.out / "a").stdout


def test_a_run_has_the_time_left(batches: Batches, call: Call) -> None:
    write_slide(batches.slides / "a.tif")
    seen: list[tuple[Status, str]] = []

    def look(event: CohortEvent) -> None:
        if isinstance(event, SlideEvent) and isinstance(event.event, TileFinished):
            seen.append((status_of(batches.out / "a"), call("status", batches.out / "a").stdout))

    batches.observer = look
    batches.run()
    shares = [status.in_flight[0].share for status, _ in seen]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [status.left_is_limit for status, _ in seen] == [True, False, False, False, False]
    for (status, text), share in zip(seen[:4], shares, strict=False):
        assert status.left_s is not None
        assert status.left_s > 0
        assert f"{100 * share:.0f} %" in text
    assert "left   at most " in seen[0][1]
    assert "left   about " in seen[1][1]


@pytest.mark.parametrize(
    "line", ['{"event": "planned", "cells": [1]}', '{"event": "planned", "cells": 3, "patches": "x"}']
)
def test_a_damaged_line_of_the_log_is_left_out(batches: Batches, line: str) -> None:
    write_slide(batches.slides / "a.tif")
    batches.observer = stop_at(3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        batches.run()
    with (batches.folder / "a" / "log.jsonl").open("a") as log:
        log.write(line + "\n")
    assert status_of(batches.out / "a").in_flight[0].tiles == 4


def test_a_run_of_0_1_0_is_resumed_with_what_was_its_default(tmp_path: Path) -> None:
    folder = tmp_path / "slide"
    shutil.copytree(EARLIER / "unfinished", folder)
    command = status_of(folder).resume_command
    assert command is not None
    assert command.startswith("wsi-magnet run ")
    assert command.endswith(" --refine all")


def test_failures_are_listed_with_their_command(batches: Batches, call: Call) -> None:
    (batches.slides / "a.svs").write_bytes(b"")
    batches.run()
    told = call("status", batches.out)
    assert told.exit_code == 1
    assert "a (failed): " in told.stdout
    assert f"wsi-magnet batch {batches.slides}/a.svs -o {batches.out}" in told.stdout


def test_a_folder_that_is_neither(call: Call, tmp_path: Path) -> None:
    assert "neither a slide's result folder nor" in one_line(call("status", tmp_path))
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "run.json").touch()
    assert "neither a slide's result folder nor" in one_line(call("status", tmp_path / "slide" / "run.json"))


def test_a_folder_of_runs_is_added_up(batches: Batches, call: Call) -> None:
    made = MadeRun(write_slide(batches.slides / "a.tif"), batches.bundle)
    run_serially(made, batches.folder)
    told = call("status", batches.folder)
    assert told.exit_code == 0
    assert "slides  1: 1 finished" in told.stdout
    with pytest.raises(KeyboardInterrupt):
        run_serially(replace(made, slide=write_slide(batches.slides / "b.tif")), batches.folder, observe=stop_at_first)
    (batches.folder / "damaged").mkdir()
    (batches.folder / "damaged" / "run.json").write_text("{}")
    status = status_of(batches.folder)
    assert (status.kind, status.state) == ("runs", "stopped")
    assert status.counts == {"finished": 1, "stopped": 1, "unreadable": 1}
    assert [one.name for one in status.in_flight] == ["b"]
    told = call("status", batches.folder)
    assert told.exit_code == 1
    assert status.resume_command is not None
    assert f"To resume:\n  {status.resume_command}" in told.stdout
    assert "b.tif" in status.resume_command
    assert "damaged (unreadable): " in told.stdout


def test_alarms_are_counted(batches: Batches, call: Call) -> None:
    for name in ("a", "b"):
        made = MadeRun(write_slide(batches.slides / f"{name}.tif"), batches.bundle)
        run_serially(made, batches.folder)
        folder = ResultFolder(batches.folder / name)
        record = folder.read_run()
        assert record is not None
        kinds = ("upsampled", "uncertain")[: 1 + (name == "b")]
        alarms = [{"kind": kind, "text": "so much", "values": {}} for kind in kinds]
        with folder.locked():
            folder.write_run(record.but(summary={**(record.summary or {}), "alarms": alarms}))
    assert status_of(batches.folder).alarms == {"upsampled": 2, "uncertain": 1}
    assert "alarms  upsampled (2 slides); uncertain (1 slide)\n" in call("status", batches.folder).stdout
    assert "alarms  upsampled; uncertain\n" in call("status", batches.folder / "b").stdout
    batches.run()
    adopted = status_of(batches.out)
    assert (adopted.kind, adopted.alarms) == ("batch", {"upsampled": 2, "uncertain": 1}), "results of single runs"


def stop_at_first(event: Event) -> None:
    if isinstance(event, TileFinished):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_killed_batch_is_stopped(batches: Batches, call: Call) -> None:
    for i in range(2):
        write_slide(batches.slides / f"{i}.tif", i)
    code = (
        "import os, sys; from pathlib import Path; from tests.cohort.made import Batches\n"
        "made = Batches(*map(Path, sys.argv[1:]))\n"
        "made.observer = lambda event: os.kill(os.getpid(), 9) if type(event).__name__ == 'SlideEvent' else None\n"
        "made.run(in_flight=1)"
    )
    command = [sys.executable, "-c", code, str(batches.slides), str(batches.out), str(batches.bundle)]
    assert subprocess.run(command, check=False).returncode == -9
    status = status_of(batches.out)
    assert (status.state, status.worker) == ("stopped", None)
    assert status.counts == {"running": 1, "waiting": 1}
    assert "slides  2: 1 started, 1 waiting" in call("status", batches.out).stdout
    assert batches.run().all_well


def test_it_needs_neither_torch_nor_dask(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    batches.run()
    loaded = modules_after("status", str(batches.out))
    assert loaded.isdisjoint({"torch", "dask", "distributed", "openslide", "skimage", "scipy"})
