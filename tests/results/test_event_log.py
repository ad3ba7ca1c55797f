"""Event log: lines of JSON, appended by runs that started and by no others."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Call
from tests.runs import MadeRun, run_serially
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import ResultMismatchError
from wsi_magnet.results.event_log import EventLog, RunLog
from wsi_magnet.results.events import Event, TileFinished, together


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_with_their_time(tmp_path: Path) -> None:
    EventLog(tmp_path / "log.jsonl").write("info", "one", {"path": Path("/x"), "text": "ä\n"})
    EventLog(tmp_path / "log.jsonl").write("error", "two", {})
    one, two = lines(tmp_path / "log.jsonl")
    assert (one["level"], one["event"], one["path"], one["text"]) == ("info", "one", "/x", "ä\n")
    assert datetime.fromisoformat(two["time"]) >= datetime.fromisoformat(one["time"])
    assert datetime.fromisoformat(one["time"]).utcoffset() is not None


def test_a_run_logs_its_start_its_scales_and_its_end(made_run: MadeRun, tmp_path: Path) -> None:
    folder = tmp_path / made_run.slide.stem
    with RunLog(folder, {"command": "do it"}) as log:
        log.finished(run_serially(made_run, tmp_path, observe=log))
    logged = lines(folder / "log.jsonl")
    assert [line["event"] for line in logged if line["event"] not in ("notice", "workers")] == [
        "started",
        "planned",
        *["scale started", "scale finished"] * 3,
        "finished",
    ]
    assert logged[0]["command"] == "do it"
    assert logged[0]["versions"]["python"]
    with RunLog(folder, {}) as log:
        log.finished(run_serially(made_run, tmp_path, observe=log))
    assert lines(folder / "log.jsonl") == logged, "nothing was done"
    with pytest.raises(ResultMismatchError), RunLog(folder, {}) as log:
        run_serially(made_run, tmp_path, RunConfig(tile_px=512, refine=0.1), observe=log)
    assert lines(folder / "log.jsonl") == logged, "a run that is refused is no part of the result's history"


@pytest.mark.slow
def test_a_stopped_run_is_logged_and_a_resumed_one_appends(made_run: MadeRun, tmp_path: Path) -> None:
    folder = tmp_path / made_run.slide.stem

    def stop(event: Event) -> None:
        if isinstance(event, TileFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), RunLog(folder, {}) as log:
        run_serially(made_run, tmp_path, observe=together(log, stop))
    stopped = lines(folder / "log.jsonl")
    assert (stopped[-1]["event"], stopped[-1]["error_type"]) == ("stopped", "KeyboardInterrupt")
    with RunLog(folder, {}) as log:
        log.finished(run_serially(made_run, tmp_path, observe=log))
    logged = lines(folder / "log.jsonl")
    assert logged[: len(stopped)] == stopped
    assert logged[-1]["event"] == "finished"
    with RunLog(folder, {}) as log:
        log.finished(run_serially(made_run, tmp_path, existing="restart", observe=log))
    assert len([line for line in lines(folder / "log.jsonl") if line["event"] == "started"]) == 1, "started again"


def test_the_command_writes_it(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    assert call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle).exit_code == 0
    first = lines(tmp_path / made_run.slide.stem / "log.jsonl")[0]
    assert first["command"] == f"wsi-magnet run {made_run.slide} -o {tmp_path} --bundle {made_run.bundle}"
