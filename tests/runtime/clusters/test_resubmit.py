"""Jobs of batch systems: started, lost and submitted again, given up, and cancelled at the end."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest
from distributed import Status

from tests.few import slow_except
from tests.runtime.clusters.fake_batch import jobs_of, write_commands
from wsi_magnet.config import Execution
from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.clusters import cluster as clusters
from wsi_magnet.runtime.clusters import resubmit
from wsi_magnet.runtime.clusters.cluster import RunningCluster
from wsi_magnet.runtime.clusters.resubmit import list_jobs
from wsi_magnet.runtime.clusters.spec import ClusterSpec, Kind, read_cluster
from wsi_magnet.runtime.start import start_executor

Batch = Callable[..., Path]


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    """Puts a batch system's commands on the path."""
    monkeypatch.setattr(resubmit, "CHECK_S", 0.3)

    def put(kind: Kind) -> Path:
        folder = write_commands(kind, tmp_path / "commands")
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return folder

    return put


def described(folder: Path, kind: Kind, options: str = "", more: str = "workers: 1") -> Execution:
    path = folder / f"{kind}.yaml"
    path.write_text(
        f"kind: {kind}\n{more}\noptions:\n  cores: 1\n  memory: 1GB\n  log_directory: {folder / 'logs'}\n{options}"
    )
    return Execution("cpu", cluster=str(path))


def slow_square(number: int) -> int:
    sleep(0.02)
    return number * number


def ends(number: int) -> bool:
    deadline = monotonic() + 90
    while monotonic() < deadline:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        if (Path("/proc") / str(number) / "stat").read_text().split()[2] == "Z":
            return True
        sleep(0.05)
    return False


def wait_until(true: Callable[[], bool]) -> None:
    deadline = monotonic() + 90
    while not true():
        assert monotonic() < deadline
        sleep(0.05)


@pytest.mark.parametrize("kind", slow_except(["slurm"], ["slurm", "pbs", "lsf", "sge"]))
def test_jobs_do_the_work_and_are_cancelled(batch: Batch, tmp_path: Path, kind: Kind) -> None:
    commands = batch(kind)
    executor = start_executor(described(tmp_path, kind, "  use_stdin: true\n" if kind == "lsf" else ""), threads=1)
    try:
        assert executor.description == f"1 of 1 workers of {kind}.yaml ({kind}), 1 thread"
        (number,) = jobs_of(commands)
        spec = ClusterSpec(tmp_path / f"{kind}.yaml", kind, 1)
        assert number in (list_jobs(spec) or {})
        assert sorted(executor.map(slow_square, range(9))) == [n * n for n in range(9)]
    finally:
        executor.close()
    assert ends(number)


@pytest.mark.slow
def test_what_they_say_to_each_other_may_be_hidden(batch: Batch, tmp_path: Path) -> None:
    commands = batch("slurm")
    secret = f"  security: true\n  shared_temp_directory: {tmp_path}\n"
    executor = start_executor(described(tmp_path, "slurm", secret), threads=1)
    try:
        assert sorted(executor.map(slow_square, range(9))) == [n * n for n in range(9)]
        assert "Start worker at:      tls://" in (commands / "output").read_text()
        keys = list(tmp_path.glob(".dask-jobqueue*"))
        assert keys
        assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
    finally:
        executor.close()
        del executor
        gc.collect()  # it deletes its keys before pytest deletes their folder


@pytest.mark.slow
def test_a_lost_job_is_submitted_again(batch: Batch, tmp_path: Path) -> None:
    commands = batch("slurm")
    executor = start_executor(described(tmp_path, "slurm"), threads=1)
    try:
        results = executor.map(slow_square, range(200))
        some = [next(results) for _ in range(3)]
        os.killpg(jobs_of(commands)[0], signal.SIGTERM)
        assert sorted(some + list(results)) == [n * n for n in range(200)], "its only job was cancelled"
        assert len(jobs_of(commands)) == 2
    finally:
        executor.close()
    assert all(ends(number) for number in jobs_of(commands))


@pytest.mark.slow
def test_a_batch_system_that_is_down_for_a_while(batch: Batch, tmp_path: Path) -> None:
    commands = batch("slurm")
    executor = start_executor(described(tmp_path, "slurm"), threads=1)
    submit = commands / "sbatch"
    script = submit.read_text()
    try:
        results = executor.map(slow_square, range(200))
        some = [next(results) for _ in range(3)]
        submit.write_text("#!/bin/sh\necho refused >>'" + str(commands / "refusals") + "'; exit 1\n")
        os.killpg(jobs_of(commands)[0], signal.SIGTERM)
        refusals = commands / "refusals"
        wait_until(lambda: refusals.exists() and len(refusals.read_text().split()) >= 5)
        submit.write_text(script)
        assert sorted(some + list(results)) == [n * n for n in range(200)]
    finally:
        executor.close()


@pytest.mark.slow
def test_a_replaced_job_is_closed_for_dask_too(batch: Batch, tmp_path: Path) -> None:
    """Dask asserts so of every job it made that is still referenced, as by the traceback of a refused submission."""
    commands = batch("slurm")
    running = RunningCluster(read_cluster(str(described(tmp_path, "slurm").cluster)))
    try:
        running.wait()
        (first,) = running.cluster.workers.values()
        os.killpg(jobs_of(commands)[0], signal.SIGTERM)
        wait_until(lambda: len(jobs_of(commands)) == 2)
    finally:
        running.close()
    assert first.status == Status.closed
    assert all(ends(number) for number in jobs_of(commands))


@pytest.mark.slow
def test_closing_while_a_job_is_being_submitted(batch: Batch, tmp_path: Path) -> None:
    commands = batch("slurm")
    running = RunningCluster(read_cluster(str(described(tmp_path, "slurm").cluster)))
    submit, begun = commands / "sbatch", commands / "begun"
    try:
        running.wait()
        submit.write_text(submit.read_text().replace("#!/bin/bash", f"#!/bin/bash\ntouch '{begun}'; sleep 0.5"))
        os.killpg(jobs_of(commands)[0], signal.SIGTERM)
        wait_until(begun.exists)
    finally:
        running.close()
    assert len(jobs_of(commands)) == 2
    assert all(ends(number) for number in jobs_of(commands))


@pytest.mark.slow
def test_jobs_that_end_in_vain_are_given_up(batch: Batch, tmp_path: Path) -> None:
    commands = batch("slurm")
    with pytest.raises(ClusterError, match=r"3 jobs in a row ended before their worker started; see .*logs"):
        start_executor(described(tmp_path, "slurm", "  python: /bin/false\n"), threads=1)
    assert len(jobs_of(commands)) == 3


def test_jobs_that_wait_too_long(batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = batch("slurm")
    monkeypatch.setattr(clusters, "NOTIFY_EVERY_S", 0.5)
    prologue = "  job_script_prologue: ['exec sleep 100']\n"
    with pytest.raises(
        ClusterError, match=r"slurm\.yaml: no worker came within 0\.03 minutes \(1 RUNNING None; see `squeue --me`\)"
    ):
        start_executor(described(tmp_path, "slurm", prologue, "workers: 1\npatience_minutes: 0.03"), threads=1)
    assert ends(jobs_of(commands)[0])


def test_a_batch_system_that_refuses(batch: Batch, tmp_path: Path) -> None:
    commands = batch("slurm")
    (commands / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: nope' >&2; exit 1\n")
    with pytest.raises(
        ClusterError, match=r"sbatch refuses the job: .*invalid partition specified: nope; `wsi-magnet cluster .*slurm"
    ):
        start_executor(described(tmp_path, "slurm"), threads=1)


def test_a_batch_system_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"slurm\.yaml: sbatch is not found here; start the run where jobs are"):
        start_executor(described(tmp_path, "slurm"), threads=1)
    assert list_jobs(ClusterSpec(tmp_path / "x.yaml", "slurm", 1)) is None
