"""Workers' reports compared with the client's, with faked reports; and one real cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from tests.runs import MadeRun
from wsi_magnet.config import Execution
from wsi_magnet.doctor import cluster
from wsi_magnet.doctor.check import CheckResult, Needs, Request
from wsi_magnet.doctor.cluster import WorkerReport, check_cluster, compare_workers
from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.types import SchedulerInfo, WorkerInfo

VERSIONS = {"python": "3.12.1", "wsi-magnet": "1.0", "torch": "2.7", "distributed": "2025.2", "msgpack": "1.1"}
GOOD = WorkerReport("node1", 7, VERSIONS, None, 0, "ab" * 32, None, "id", None, None, False)
MEMBER = WorkerInfo("w", 2, {}, None, 0.5)
INFO = SchedulerInfo({"distributed": "2025.2"}, {"tcp://a": MEMBER, "tcp://b": MEMBER})
REQUEST = Request(Execution(scheduler="tcp://head:8786"), None, "/data/s.svs", "/data/out")


def compared(
    request: Request = REQUEST, info: SchedulerInfo = INFO, unseen: tuple[str, ...] = (), **changes: Any
) -> list[CheckResult]:
    """Results of two workers, of which the second has these values instead; those that are not ok."""
    reports = {"tcp://a": GOOD, "tcp://b": replace(GOOD, **changes)}
    found = list(compare_workers(reports, GOOD, info, request, Needs(10**9, 10**9), unseen))
    assert all(one.remedy for one in found if one.status != "ok")
    return [one for one in found if one.status != "ok"]


def test_a_good_cluster_has_only_ok() -> None:
    assert not compared()
    assert not compared(versions={**VERSIONS, "python": "3.12.9"})


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"versions": {**VERSIONS, "torch": "2.6"}}, "problem", "torch 2.6 (here 2.7)"),
        ({"versions": {**VERSIONS, "msgpack": "1.0"}}, "warning", "msgpack 1.0 (here 1.1)"),
        ({"bundle_sha256": "cd" * 32}, "problem", "another file than here"),
        ({"bundle_sha256": None, "bundle_error": "no such file"}, "problem", "no such file"),
        ({"output_error": "not there"}, "problem", "/data/out: not there"),
        ({"lock_taken": True}, "warning", "lock"),
        ({"slide_identity": None, "slide_error": "no such file"}, "problem", "/data/s.svs: no such file"),
        ({"slide_identity": "other"}, "problem", "another slide"),
        ({"cuda_devices": 1}, "warning", "not declared"),
        ({"memory_limit_bytes": 10**9}, "problem", "1.0 GB allowed, but a run takes about 3.0 GB for 2 threads"),
        ({"unseen": ("tcp://b",)}, "problem", "not seen here"),
    ],
)
def test_the_worker_that_differs_is_named(changes: dict[str, Any], status: str, words: str) -> None:
    (found,) = compared(**changes)
    assert (found.status, words in found.text) == (status, True), found
    assert found.text.startswith("tcp://b on node1: ")


def test_what_all_workers_have_is_said_once() -> None:
    reports = dict.fromkeys(("tcp://a", "tcp://b"), replace(GOOD, slide_identity=None, slide_error="gone"))
    found = compare_workers(reports, GOOD, INFO, REQUEST, Needs())
    assert [one.text for one in found if one.status == "problem"] == ["all 2 workers: /data/s.svs: gone"]


def test_scheduler_gpus_and_no_output() -> None:
    (found,) = compared(info=replace(INFO, scheduler_versions={"distributed": "2025.1", "numpy": "1.0"}))
    assert (found.subject, found.text) == ("scheduler", "distributed 2025.1 (here 2025.2)")
    (found,) = compared(request=replace(REQUEST, execution=Execution(scheduler="tcp://head:8786", device="cuda")))
    assert found.text == "--device cuda, but no worker declares a GPU"
    declared = replace(INFO, workers={**INFO.workers, "tcp://b": replace(MEMBER, resources={"GPU": 1})})
    (found,) = compared(info=declared)
    assert "torch finds none" in found.text
    (found,) = compared(request=replace(REQUEST, output=None))
    assert "pass -o" in found.remedy


class FakeExecutor:
    """One worker that answers, in this process, and one that does not."""

    def scheduler_info(self) -> SchedulerInfo:
        """Both workers."""
        return INFO

    def on_each_worker(self, function: Any, task: Any) -> dict[str, Any]:
        """A report and an error."""
        return {"tcp://a": function(task), "tcp://c": ClusterError("No module named 'wsi_magnet'")}

    def close(self) -> None:
        """Leave nothing."""


def test_workers_report_and_nothing_stays_behind(
    made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_connect", lambda execution: FakeExecutor())
    monkeypatch.setattr(cluster, "run_isolated", lambda function, probe, timeout_s: function(probe))
    request = replace(REQUEST, bundle=str(made_run.bundle), slide=str(made_run.slide), output=str(tmp_path / "out"))
    found = list(check_cluster(request, Needs(1, 1)))
    assert "all workers write to the same place" in " ".join(one.text for one in found)
    wrong = [one for one in found if one.status == "problem" and one.subject != "scheduler"]
    assert [one.text for one in wrong] == ["tcp://c: No module named 'wsi_magnet'"]
    assert wrong[0].remedy.startswith("install wsi-magnet")
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(execution: Execution) -> None:
        raise ClusterError("no answer")

    monkeypatch.setattr(cluster, "_connect", fail)
    (found,) = check_cluster(REQUEST, Needs())
    assert (found.status, found.text) == ("problem", "no answer")
    assert "scheduler runs" in found.remedy


@pytest.mark.slow
def test_a_real_cluster(made_run: MadeRun, tmp_path: Path) -> None:
    with LocalCluster(
        n_workers=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=":0"
    ) as running:
        execution = Execution(scheduler=running.scheduler_address)
        request = Request(execution, str(made_run.bundle), str(made_run.slide), str(tmp_path / "out"))
        found = list(check_cluster(request, Needs(1, 1)))
    assert not [one for one in found if one.status == "problem"], found
    assert not list(tmp_path.iterdir())
