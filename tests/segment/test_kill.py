"""Killed at any instant, nothing is lost: `kill -9` of the run and of its workers at random moments."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.runs import MadeRun, labels_of, run_serially

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS = 10
"""Of the run, and as many of workers: 20 in all."""

_WAIT_S = 500


@pytest.fixture(scope="module")
def undisturbed(long_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The mask of a run that nobody disturbed."""
    return labels_of(run_serially(long_run, tmp_path_factory.mktemp("undisturbed")).folder)


def command(made: MadeRun, out: Path, *options: str) -> list[str]:
    start = [sys.executable, "-m", "wsi_magnet", "run", str(made.slide), "-o", str(out), "--bundle", str(made.bundle)]
    return [*start, "--tile", "512", *options]


def tile_lines(folder: Path) -> list[tuple[int, int, int]]:
    journal = folder / "journal.jsonl"
    if not journal.exists():
        return []
    lines = [line for line in journal.read_text().split("\n")[:-1] if '"tile"' in line]
    return [tuple(json.loads(line)["tile"]) for line in lines]


def wait_for_tiles(folder: Path, wanted: int, process: subprocess.Popen[bytes]) -> None:
    """Until the journal holds so many tiles, or the process has ended.

    Not before the folder is the run's: a kill during the imports tests nothing.
    """
    deadline = time.monotonic() + _WAIT_S
    while process.poll() is None and not ((folder / "run.json").exists() and len(tile_lines(folder)) >= wanted):
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.005)


def test_the_run_is_killed_again_and_again(long_run: MadeRun, undisturbed: np.ndarray, tmp_path: Path) -> None:
    rng = random.Random(7)
    folder = tmp_path / long_run.slide.stem
    kills = 0
    for _ in range(KILLS):
        before = len(tile_lines(folder))
        process = subprocess.Popen(command(long_run, tmp_path), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for_tiles(folder, before + rng.randint(0, 6), process)
        time.sleep(rng.random() * 0.1)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= KILLS // 2, "the run was over too soon to be killed"
    assert not run_serially(long_run, tmp_path).failures
    assert (labels_of(folder) == undisturbed).all()
    assert len(tile_lines(folder)) == len(set(tile_lines(folder))), "a tile in the journal was computed again"
    assert not list(folder.rglob("*.partial"))


def test_workers_are_killed_again_and_again(long_run: MadeRun, undisturbed: np.ndarray, tmp_path: Path) -> None:
    rng = random.Random(11)
    kills = 0
    for attempt in range(KILLS):
        out = tmp_path / str(attempt)
        folder = out / long_run.slide.stem
        start = command(long_run, out, "--workers", "2")
        process = subprocess.Popen(start, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        while kills < KILLS and process.poll() is None:
            wait_for_tiles(folder, len(tile_lines(folder)) + rng.randint(0, 4), process)
            workers = worker_processes(process.pid)
            if workers:
                rng.choice(workers).kill()
                kills += 1
        error = process.communicate(timeout=_WAIT_S)[1].decode()
        assert process.returncode == 0, error
        assert (labels_of(folder) == undisturbed).all()
        if kills >= KILLS:
            return
    pytest.fail(f"only {kills} workers were there to be killed")


def worker_processes(pid: int) -> list[psutil.Process]:
    """Dask's worker processes under a run."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []
