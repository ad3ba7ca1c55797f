"""Real schedulers and workers: one that sees what the client sees, one that does not, and none at all."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from tests.conftest import ROOT
from tests.runs import MadeRun
from tests.s3 import BUCKET, objects
from wsi_magnet.config import Execution
from wsi_magnet.doctor import cluster
from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.cluster import examine_cluster
from wsi_magnet.doctor.lines import Line
from wsi_magnet.doctor.reading import look_at_bundle, look_at_slide
from wsi_magnet.doctor.report import Report
from wsi_magnet.doctor.worker import AskWorker

WORKER = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard"]


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a scheduler with one worker, both in this process."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=":0",
    ) as running:
        yield running.scheduler_address


@contextmanager
def another_worker(address: str, folder: Path, *before: str, **environment: str) -> Iterator[None]:
    """A worker of its own process, begun by a command."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen([*before, *WORKER, address], env=env, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield
    finally:
        process.terminate()
        process.wait(20)


def asked_of(made: MadeRun, out: Path, address: str) -> Asked:
    return Asked(Execution(scheduler=address), str(made.bundle), str(made.slide), str(out))


def examined(asked: Asked) -> Report:
    """Only the part that is about the cluster."""
    told: list[Line] = []
    report = Report(told.append)
    report.facts += [look_at_bundle(asked.bundle)[0], look_at_slide(Path(asked.slide or ""))]
    examine_cluster(report, asked)
    assert told == report.lines
    return report


def test_workers_that_see_what_the_client_sees_segment_a_slide(
    scheduler: str, made_run: MadeRun, tmp_path: Path
) -> None:
    report = examined(asked_of(made_run, tmp_path / "out", scheduler))
    assert not report.problems, report.lines
    assert report.lines[-1].subject == "trial run"
    assert report.lines[-1].text.startswith("on the cluster")
    assert not list(tmp_path.iterdir())
    assert json.dumps(report.to_json())


def test_workers_that_share_an_object_store(scheduler: str, made_run: MadeRun, s3_server: str) -> None:
    out = f"s3://{BUCKET}/doctor"
    asked = Asked(Execution(scheduler=scheduler), str(made_run.bundle), str(made_run.slide), out)
    report = examined(asked)
    assert not report.problems, report.lines
    assert f"{out} is the same place for all workers" in [line.text for line in report.lines]
    assert not objects(out)


def test_a_worker_that_does_not_see_the_folders(scheduler: str, made_run: MadeRun, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("unshare") or subprocess.call(["unshare", "-m", "true"]) != 0:
        pytest.skip("to hide folders from a worker takes root and a mount namespace")
    bundle, out = tmp_path / "bundle" / "b.safetensors", tmp_path / "out"
    bundle.parent.mkdir()
    out.mkdir()
    shutil.copy(made_run.bundle, bundle)
    hide = f'mount -t tmpfs none "{bundle.parent}" && mount -t tmpfs none "{out}" && exec "$@"'
    with another_worker(scheduler, tmp_path, "unshare", "-m", "sh", "-c", hide, "sh"):
        report = examined(asked_of(MadeRun(made_run.slide, bundle), out, scheduler))
    wrong = {line.subject: line.text for line in report.lines if line.state == "PROBLEM"}
    assert wrong.keys() == {"bundle", "output"}
    assert f"bundle {bundle}: No such file" in wrong["bundle"]
    assert wrong["output"].startswith(f"{out} on worker tcp://")
    assert wrong["output"].endswith("it is not there")
    assert not [line for line in report.lines if line.subject == "trial run"]
    assert not list(out.iterdir())


def test_a_worker_without_this_program(scheduler: str, made_run: MadeRun, tmp_path: Path) -> None:
    (tmp_path / "wsi_magnet").mkdir()
    (tmp_path / "wsi_magnet" / "__init__.py").write_text("raise ImportError('an old one')")
    with another_worker(scheduler, tmp_path, PYTHONPATH=str(tmp_path)):
        report = examined(asked_of(made_run, tmp_path / "out", scheduler))
    (line,) = [line for line in report.lines if line.state == "PROBLEM"]
    assert "an old one" in line.text
    assert line.cure.startswith("install wsi-magnet")


def test_a_scheduler_without_workers(made_run: MadeRun, tmp_path: Path) -> None:
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=":0") as none:
        (line,) = examined(asked_of(made_run, tmp_path / "out", none.scheduler_address)).lines
    assert (line.state, line.subject) == ("PROBLEM", "cluster")
    assert "dask worker" in line.cure


def test_a_scheduler_that_is_not_there(made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "START_S", 2.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        (line,) = examined(asked_of(made_run, tmp_path, f"tcp://127.0.0.1:{taken.getsockname()[1]}")).lines
    assert (line.state, line.text) == ("PROBLEM", "no answer within 2 s")
    assert "scheduler" in line.cure


def test_workers_that_do_not_answer(
    scheduler: str, made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_S", 1.0)
    monkeypatch.setattr(AskWorker, "__call__", lambda self, task: time.sleep(4))
    (line,) = examined(asked_of(made_run, tmp_path, scheduler)).lines
    assert (line.state, line.text) == ("PROBLEM", "asking the workers: no answer within 1 s")
    assert not list(tmp_path.iterdir())
