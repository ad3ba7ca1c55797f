"""A real Slurm, thrown away afterwards: runs through it give the mask of a run without it, whatever becomes of jobs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Call, one_line
from tests.runs import MadeRun, labels_of, run_serially
from wsi_magnet.runtime.clusters.batch import job_script
from wsi_magnet.runtime.clusters.spec import read_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("slurm"), pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "pipelines" / "slurm"
WAIT_S = 500

JOB = f"""
options:
  cores: 2
  memory: 2GB
  walltime: "00:20:00"
  job_extra_directives: ["--export=ALL,PYTHONPATH={ROOT}"]
"""


@pytest.fixture(scope="module")
def undisturbed(long_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The mask of a run in one thread."""
    return labels_of(run_serially(long_run, tmp_path_factory.mktemp("undisturbed")).folder)


@pytest.fixture(autouse=True)
def nothing_is_left_in_the_queue() -> Iterator[None]:
    """After each test; jobs of one must not take the place of another's either."""
    yield
    wait_until(lambda: not queue(), "jobs are left over")


def queue(state: str = "all") -> list[str]:
    command = ["squeue", "--noheader", "--format=%i", f"--states={state}" if state != "all" else "--array"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def wait_until(true: object, words: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, words
        time.sleep(0.05)


def begin(made: MadeRun, out: Path, more: str) -> subprocess.Popen[str]:
    (out / "slurm.yaml").write_text(f"kind: slurm\n{more}{JOB}")
    command = [sys.executable, "-m", "wsi_magnet", "run", str(made.slide), "-o", str(out), "--bundle", str(made.bundle)]
    command += ["--tile", "512", "--cluster", str(out / "slurm.yaml")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=out, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def tiles_done(folder: Path) -> int:
    journal = folder / "journal.jsonl"
    return sum('"tile"' in line for line in journal.read_text().splitlines()) if journal.exists() else 0


def test_workers_of_a_fixed_number(long_run: MadeRun, undisturbed: np.ndarray, tmp_path: Path) -> None:
    process = begin(long_run, tmp_path, "workers: 2")
    _, error = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, error
    assert re.search(r"Working with [12] of 2 workers of slurm\.yaml \(slurm\), [24] threads; dashboard http", error)
    assert (labels_of(tmp_path / long_run.slide.stem) == undisturbed).all()


def test_the_only_job_of_a_run_that_adapts_is_cancelled_in_the_middle(
    long_run: MadeRun, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / long_run.slide.stem
    process = begin(long_run, tmp_path, "adapt: {minimum: 1, maximum: 1}")  # a second job would finish the run alone
    wait_until(lambda: tiles_done(folder) >= 1 or process.poll() is not None, "nothing happens")
    process.send_signal(signal.SIGSTOP)  # while the run is stopped, no scale after the first can be handed out
    subprocess.run(["scancel", *queue("running")], check=True)
    wait_until(lambda: not queue(), "the job goes on")
    process.send_signal(signal.SIGCONT)
    _, error = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, error
    assert "1 jobs ended before the run did; submitted again" in error
    assert (labels_of(folder) == undisturbed).all()


def test_a_run_that_is_stopped_cancels_its_jobs_and_goes_on_later(
    long_run: MadeRun, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / long_run.slide.stem
    process = begin(long_run, tmp_path, "workers: 1")
    wait_until(lambda: tiles_done(folder) >= 2 or process.poll() is not None, "nothing happens")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, error
    assert "resumes" in error
    assert "Traceback" not in error
    wait_until(lambda: not queue("running"), "the job goes on")
    done = tiles_done(folder)
    again = begin(long_run, tmp_path, "workers: 1")
    _, error = again.communicate(timeout=WAIT_S)
    assert again.returncode == 0, error
    assert "finished before" in error
    assert (labels_of(folder) == undisturbed).all()
    assert done >= 2


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_slurm_takes_the_scripts_of_the_examples(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "script"
    script.write_text(job_script(read_cluster(path)))
    told = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert re.search(r"Job \d+ to start at .* using (8|16) processors", told.stderr)


def test_what_slurm_refuses_is_said_in_its_words(call: Call, long_run: MadeRun, tmp_path: Path) -> None:
    path = tmp_path / "slurm.yaml"
    path.write_text("kind: slurm\nworkers: 1\noptions: {cores: 1, memory: 1GB, queue: nowhere}\n")
    text = one_line(call("run", long_run.slide, "-o", tmp_path, "--bundle", long_run.bundle, "--cluster", path))
    assert "sbatch refuses the job" in text
    assert "nvalid partition" in text
    assert f"`wsi-magnet cluster {path}`" in text


def test_jobs_that_stay_in_the_queue(call: Call, long_run: MadeRun, tmp_path: Path) -> None:
    path = tmp_path / "slurm.yaml"
    later = "kind: slurm\nworkers: 2\npatience_minutes: 0.05\n"
    path.write_text(f"{later}options: {{cores: 1, memory: 1GB, job_extra_directives: [--begin=now+1hour]}}\n")
    text = one_line(call("run", long_run.slide, "-o", tmp_path, "--bundle", long_run.bundle, "--cluster", path))
    assert f"{path}: no worker came within 0.05 minutes (2 PENDING BeginTime; see `squeue --me`)" in text


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sbatch")), ids=lambda path: path.stem)
def test_slurm_takes_the_jobs_of_runs_and_batches(script: Path) -> None:
    told = subprocess.run(["sbatch", "--test-only", script, "slide.svs"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert re.search(r"Job \d+ to start at .* using 2 processors", told.stderr)


@pytest.mark.parametrize("what", ["run", "batch"])
def test_a_run_or_a_batch_as_a_job_is_queued_again_when_its_time_is_up(
    long_run: MadeRun, undisturbed: np.ndarray, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / long_run.slide.stem
    (tmp_path / "cluster.yaml").write_text(f"kind: slurm\nworkers: 1{JOB}")
    command = tmp_path / "bin" / "wsi-magnet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m wsi_magnet "$@"\n')
    command.chmod(0o755)
    shutil.copy(EXAMPLES / f"{what}.sbatch", tmp_path)
    env = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    out = [str(tmp_path)] if what == "run" else ["-o", str(tmp_path)]
    arguments = [str(long_run.slide), *out, "--bundle", str(long_run.bundle), "--tile", "512"]
    told = subprocess.run(
        ["sbatch", "--parsable", f"{what}.sbatch", *arguments],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    number = told.stdout.strip()
    wait_until(lambda: tiles_done(folder) >= 2, "nothing happens")
    subprocess.run(["scancel", "--batch", "--signal=USR1", number], check=True)  # as Slurm does before the time is up
    wait_until(lambda: number in queue("pending"), "it is not queued again")
    assert json.loads((folder / "run.json").read_text())["state"] == "running"
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True)  # it would be two minutes
    # Not the queue: between being queued again and running a job may be in none of the states that squeue shows.
    wait_until(lambda: json.loads((folder / "run.json").read_text())["state"] != "running", "it does not end")
    wait_until(lambda: not queue(), "it does not end")
    log = (tmp_path / f"wsi-magnet-{what}-{number}.log").read_text()
    assert "resumes" in log
    assert (labels_of(folder) == undisturbed).all()
