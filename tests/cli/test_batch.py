"""`wsi-magnet batch`: its output, its exit codes, and stopping it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cohort.made import Batches, write_free_bundle, write_slide
from tests.commands import Call, one_line
from wsi_magnet.cohort.state import States
from wsi_magnet.results.folder import ResultFolder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_free_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Two good ones and a bad one."""
    folder = tmp_path / "slides"
    write_slide(folder / "a.tif", 1)
    write_slide(folder / "b.tif", 2)
    (folder / "c.svs").write_bytes(b"")
    return folder


@pytest.mark.slow
def test_a_batch_from_the_command_line(call: Call, slides: Path, bundle: Path, tmp_path: Path) -> None:
    arguments = ["batch", slides, "-o", tmp_path / "out", "--bundle", bundle, "--tile", "512", "--workers", "1"]
    first = call(*arguments)
    assert f"of 3 slides 1 failed; reasons are above and in {tmp_path}/out/summary.md" in one_line(first)
    reason = States(tmp_path / "out").read()["c"].error
    assert reason is not None
    assert "worker on" not in reason, "it is this machine"
    assert (first.stdout + first.stderr).count(reason) == 1
    assert "c (failed)\n  wsi-magnet batch " in first.stdout
    assert "--retry-failed" in first.stdout
    lines = first.stderr.splitlines()
    assert lines[0] == "3 slides, 3 to do"
    assert re.search(r"Working with (1 worker process|\d+ worker processes) of this machine", lines[1])
    assert sorted(line.split("]")[0] for line in lines if line.startswith("[")) == ["[1/3", "[2/3", "[3/3"]
    assert [line for line in lines if "a: finished, " in line and "mm² (red " in line]
    assert [line for line in lines if "c: FAILED after " in line]
    assert "3: 2 finished, 1 failed" in first.stdout
    again = call(*arguments, "--json")
    assert again.exit_code == 1
    values = json.loads(again.stdout)
    assert (values["worked_on"], values["counts"]) == (0, {"finished": 2, "failed": 1})
    assert "slides that failed before are repeated with --retry-failed" in again.stderr
    assert f"c (failed): {reason}" in call(*arguments).stdout, "told again where nothing was done"
    write_slide(slides / "c.svs")
    mended = call(*arguments, "--retry-failed")
    assert mended.exit_code == 0, mended.stderr
    assert "[1/1] c: finished" in mended.stderr


def test_nothing_found_is_wrong_usage(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = call("batch", tmp_path / "empty", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "no slides in" in result.stderr
    assert not (tmp_path / "out").exists()
    assert call("batch", "-o", tmp_path / "out").exit_code == 2
    assert call("batch", tmp_path, "-o", tmp_path / "out", "--in-flight", "0").exit_code == 2


def test_a_second_batch_in_the_same_folder(call: Call, slides: Path, bundle: Path, tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "out").locked():
        text = one_line(call("batch", slides, "-o", tmp_path / "out", "--bundle", bundle))
    assert f"process {os.getpid()}" in text


def start(slides: Path, out: Path, bundle: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wsi_magnet", "batch", str(slides), "-o", str(out), "--bundle", str(bundle)]
    return subprocess.Popen([*command, "--tile", "512", "--workers", "1"], stderr=subprocess.PIPE, text=True)


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not ready():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.02)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_stopped_batch_names_its_resuming_command(
    call: Call, bundle: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    for i in range(4):
        write_slide(tmp_path / "slides" / f"{i}.tif", i)
    out = tmp_path / "out"
    process = start(tmp_path / "slides", out, bundle)
    wait_until(lambda: bool(list(out.glob("*/journal.jsonl"))))
    process.send_signal(sent)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Stopped. What is finished is kept: the same command" in error
    assert "Traceback" not in error
    states = {state.state for state in States(out).read().values()}
    assert states <= {"waiting", "finished"}, "none is left as if somebody worked on it"
    assert call("status", out).exit_code == 1
    assert Batches(tmp_path / "slides", out, bundle).run().all_well


@pytest.mark.slow
def test_stopped_twice_it_ends_at_once(bundle: Path, tmp_path: Path) -> None:
    for i in range(4):
        write_slide(tmp_path / "slides" / f"{i}.tif", i)
    out = tmp_path / "out"
    process = start(tmp_path / "slides", out, bundle)
    wait_until(lambda: bool(list(out.glob("*/journal.jsonl"))))
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "a second Ctrl-C stops at once" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 130
    assert any(state.state != "finished" for state in States(out).read().values()), "it did not wait for the slides"
