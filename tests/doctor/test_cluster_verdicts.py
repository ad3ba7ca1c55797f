"""A cluster's workers held against the client: each thing that differs has its line, and names who differs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from tests.doctor.facts_made import COST, GIB, only, worst
from wsi_magnet.doctor.cluster_facts import Client, Cluster, WorkerFacts
from wsi_magnet.doctor.cluster_verdicts import cluster, unanswered, unreachable
from wsi_magnet.doctor.facts import Ended
from wsi_magnet.doctor.lines import Line
from wsi_magnet.runtime.types import SchedulerInfo, WorkerInfo

VERSIONS = {"python": "3.12.1", "wsi-magnet": "1.0", "torch": "2.7", "distributed": "2025.2", "msgpack": "1.1"}
CLIENT = Client("head", VERSIONS, "ab" * 32, "id", "/data/out", "/data/s.svs", "auto")
WORKER = WorkerFacts("node1", 7, 8, VERSIONS, 1000.5, None, "ab" * 32, None, None, False, "id", None, 0)
MEMBER = WorkerInfo("w", 2, {}, None, 0.5)


def cluster_of(**changes: Any) -> Cluster:
    """Two workers, of which the second has these facts instead."""
    answers = {"tcp://a": WORKER, "tcp://b": replace(WORKER, **changes)}
    members = dict.fromkeys(answers, MEMBER)
    return Cluster("2 workers", (1000.0, 1001.0), {"distributed": "2025.2"}, members, answers, ())


def said(found: Cluster, client: Client = CLIENT) -> Iterable[Line]:
    return cluster(found, client, COST)


def test_a_good_cluster_has_nothing_but_ok() -> None:
    lines = list(said(cluster_of()))
    assert {line.state for line in lines} == {"ok"}
    assert lines[0].text == "2 on 1 host answered, 4 threads in all"


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"versions": {**VERSIONS, "torch": "2.6"}}, "PROBLEM", "torch 2.6 (here 2.7)"),
        ({"versions": {**VERSIONS, "python": "3.11.9"}}, "PROBLEM", "python 3.11.9 (here 3.12.1)"),
        ({"versions": {**VERSIONS, "msgpack": "1.0"}}, "warning", "msgpack 1.0 (here 1.1)"),
        ({"bundle_sha256": "cd" * 32}, "PROBLEM", "another file than here (cdcdcdcdcdcd, here abababababab)"),
        ({"bundle_sha256": None, "bundle_error": "no such file"}, "PROBLEM", "no such file"),
        ({"output": "it is not there"}, "PROBLEM", "/data/out on worker tcp://b on node1: it is not there"),
        ({"lock_taken": True}, "warning", "lock"),
        ({"slide_identity": None, "slide_error": "no such file"}, "PROBLEM", "/data/s.svs on worker tcp://b"),
        ({"slide_identity": "other"}, "PROBLEM", "another slide"),
        ({"clock": 800.0}, "warning", "200 s behind"),
        ({"clock": 1301.0}, "warning", "300 s ahead"),
        ({"cuda": 1}, "warning", "do not declare it"),
        ({"memory_limit_bytes": GIB}, "PROBLEM", "1.1 GB allowed, and a run takes about 2.1 GB for 2 threads"),
    ],
)
def test_what_differs_is_told_of_the_worker_that_differs(changes: dict[str, Any], state: str, words: str) -> None:
    line = worst(said(cluster_of(**changes)), state)
    assert words in line.text
    assert "tcp://b" in line.text
    assert "tcp://a" not in line.text


def test_a_patch_of_python_does_not_matter() -> None:
    versions = {**VERSIONS, "python": "3.12.9"}
    assert {line.state for line in said(cluster_of(versions=versions))} == {"ok"}


def test_what_all_have_is_said_once() -> None:
    found = cluster_of()
    answers = {a: replace(WORKER, slide_error="no such file", slide_identity=None) for a in found.answers}
    assert "on all 2 workers: no such file" in worst(said(replace(found, answers=answers)), "PROBLEM").text


def test_workers_that_cannot_answer_do_not_hide_the_others() -> None:
    found = cluster_of()
    answers = {**found.answers, "tcp://c": "No module named 'wsi_magnet'"}
    lines = list(said(replace(found, answers=answers)))
    line = worst(lines, "PROBLEM")
    assert "tcp://c cannot answer: No module named" in line.text
    assert "install wsi-magnet 1.0" in line.cure
    assert only(said(replace(found, answers={"tcp://c": "gone"})), "PROBLEM")


def test_a_scheduler_of_another_version() -> None:
    found = replace(cluster_of(), scheduler_versions={"distributed": "2025.1", "numpy": "1.0"})
    assert worst(said(found), "PROBLEM").text == "distributed 2025.1 (here 2025.2)"


def test_what_a_worker_wrote_and_nobody_sees_here() -> None:
    assert (
        "tcp://b on node1 is not seen here" in worst(said(replace(cluster_of(), unseen=("tcp://b",))), "PROBLEM").text
    )


def test_what_was_not_asked_for_is_not_held_against_anybody() -> None:
    client = replace(CLIENT, output=None, slide=None, bundle_sha256=None)
    assert worst(said(cluster_of(bundle_sha256="cd", slide_error="x"), client), "warning").cure.startswith("pass -o")


def test_gpus_that_are_declared() -> None:
    found = cluster_of(cuda=1)
    members = {**found.members, "tcp://b": replace(MEMBER, resources={"GPU": 1})}
    assert {line.state for line in said(replace(found, members=members))} == {"ok"}
    empty = replace(cluster_of(), members=members)
    assert "torch sees none" in worst(said(empty), "PROBLEM").text
    assert "no worker declares" in worst(said(cluster_of(), replace(CLIENT, device="cuda")), "PROBLEM").text


def test_more_threads_than_processors() -> None:
    found = cluster_of()
    members = dict.fromkeys(found.answers, replace(MEMBER, threads=6))
    assert worst(said(replace(found, members=members)), "warning").text == "node1: 12 threads for 8 processors"


def test_what_dask_allows_a_worker_counts_as_well() -> None:
    found = cluster_of()
    members = {**found.members, "tcp://b": replace(MEMBER, memory_limit_bytes=GIB)}
    assert "tcp://b" in worst(said(replace(found, members=members)), "PROBLEM").text


def test_a_cluster_that_is_not_there() -> None:
    line = only(unreachable(Ended("reaching", "no Dask scheduler answers at x (refused); start one")), "PROBLEM")
    assert (line.text, line.cure) == ("no Dask scheduler answers at x (refused)", "start one")
    told = "s; check the endpoint; what is finished is kept: run the same command again"
    assert only(unreachable(Ended("reaching", told)), "PROBLEM").cure == "check the endpoint"
    assert only(unreachable(Ended("reaching", "no answer within 90 s")), "PROBLEM").text == "no answer within 90 s"


def test_workers_that_hang_are_named() -> None:
    scheduler_info = SchedulerInfo({}, {"tcp://a": MEMBER, "tcp://b": replace(MEMBER, unheard_s=40)})
    line = only(unanswered(Ended("asking the workers", "no answer within 120 s"), scheduler_info), "PROBLEM")
    assert line.text == "asking the workers: no answer within 120 s; its scheduler has not heard of tcp://b"
