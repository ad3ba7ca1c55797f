"""Tasks whose worker refuses them, is killed or is cut off, and maps of several threads at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import mean

import pytest
from distributed import Client, LocalCluster, get_worker

from wsi_magnet.config import Execution
from wsi_magnet.errors import ClusterError, SlideOpenError
from wsi_magnet.runtime import connection, task_map
from wsi_magnet.runtime.dask_executor import DaskExecutor
from wsi_magnet.runtime.start import start_executor


@pytest.fixture(scope="module")
def threads() -> Iterator[tuple[DaskExecutor, LocalCluster]]:
    """Three workers of one thread each, in this process."""
    with LocalCluster(
        n_workers=3, threads_per_worker=1, processes=False, memory_limit=0, dashboard_address="127.0.0.1:0"
    ) as cluster:
        executor = DaskExecutor(partial(Client, cluster, set_as_default=False), description="three")
        yield executor, cluster
        executor.close()


def name_of_worker() -> object:
    return get_worker().name


def refuse_on_first(number: int) -> tuple[int, object]:
    """A slide that one worker cannot see."""
    if name_of_worker() == 0:
        raise SlideOpenError("worker on host a: slide.svs: no such file")
    time.sleep(0.002)
    return number, name_of_worker()


def test_a_worker_that_refuses_is_passed_over(threads: tuple[DaskExecutor, LocalCluster]) -> None:
    told: list[str] = []
    results = list(threads[0].map(refuse_on_first, range(60), notify=told.append))
    assert sorted(number for number, _ in results) == list(range(60))
    assert {worker for _, worker in results} == {1, 2}
    assert len(told) == 1
    assert "slide.svs: no such file" in told[0]
    assert "is excluded" in told[0]


def refuse(number: int) -> int:
    raise SlideOpenError(f"slide {number}: no such file")


def test_what_all_refuse_is_refused(threads: tuple[DaskExecutor, LocalCluster]) -> None:
    with pytest.raises(SlideOpenError, match="slide 5: no such file"):
        list(threads[0].map(refuse, [5]))


def unreadable_on_first(number: int) -> tuple[int, str]:
    return number, "unreadable" if name_of_worker() == 0 or number == 7 else "read"


def test_a_bad_result_is_asked_for_once_more_elsewhere(threads: tuple[DaskExecutor, LocalCluster]) -> None:
    results = threads[0].map(unreadable_on_first, range(30), retry_if=lambda result: result[1] == "unreadable")
    assert sorted(results) == [(n, "unreadable" if n == 7 else "read") for n in range(30)]


def slowly(number: int) -> int:
    time.sleep(0.02)
    return number


ORDER: list[int] = []
"""The tasks of `noted`, as they are begun; all workers are in this process."""


def noted(number: int) -> int:
    ORDER.append(number)
    return slowly(number)


def test_maps_of_several_threads_and_priorities(threads: tuple[DaskExecutor, LocalCluster]) -> None:
    def run(rank: int) -> list[int]:
        return sorted(threads[0].with_priority(-rank).map(noted, range(rank * 100, rank * 100 + 40)))

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(run, (3, 1, 2)))
    assert found == [list(range(rank * 100, rank * 100 + 40)) for rank in (3, 1, 2)]
    places = [mean(i for i, number in enumerate(ORDER) if number // 100 == rank) for rank in (1, 2, 3)]
    assert places == sorted(places), "a higher priority comes first, as a rule"


def test_a_connection_that_breaks_is_made_anew(threads: tuple[DaskExecutor, LocalCluster]) -> None:
    executor = threads[0]
    told: list[str] = []
    results = executor.map(slowly, range(60), notify=told.append)
    found = list(islice(results, 10))
    client = executor._context.connection.client
    client.loop.add_callback(client.scheduler_comm.comm.abort)  # type: ignore[union-attr]
    found += results
    assert sorted(found) == list(range(60))
    assert "waiting for it" in told[0]
    assert "there again" in told[1]


def test_a_map_that_is_left_cancels_what_waits(threads: tuple[DaskExecutor, LocalCluster]) -> None:
    executor, cluster = threads
    assert cluster.scheduler is not None
    results = executor.map(slowly, range(1000))
    next(results)
    results.close()
    deadline = time.monotonic() + 90
    while cluster.scheduler.tasks and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not cluster.scheduler.tasks


def test_on_each_worker(threads: tuple[DaskExecutor, LocalCluster]) -> None:
    answers = threads[0].on_each_worker(slowly, 3)
    assert list(answers.values()) == [3, 3, 3]
    errors = threads[0].on_each_worker(refuse, 3)
    assert all(isinstance(error, SlideOpenError) for error in errors.values())
    assert threads[0].slots == 3


def poison(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number


@pytest.mark.slow  # tests/segment/test_failures.py has a quick one
@pytest.mark.timeout(180)
def test_a_task_that_kills_its_workers_is_given_up_and_no_other() -> None:
    executor = start_executor(Execution("cpu", workers=2), threads=2)
    told: list[str] = []
    lost: dict[int, str] = {}
    try:

        def give_up(task: int, reason: str) -> int:
            lost[task] = reason
            return -task

        found = sorted(executor.map(poison, range(20), on_lost=give_up, notify=told.append))
        assert found == [-5, *(n for n in range(20) if n != 5)]
        assert list(lost) == [5]
        assert "no worker survived it" in lost[5]
        assert "SIGKILL" in lost[5]
        assert any("by itself" in text for text in told)
        with pytest.raises(ClusterError, match=r"SIGKILL.*more memory"):
            list(executor.map(poison, [5]))
    finally:
        executor.close()


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_scheduler_that_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(task_map, "POLL_S", 0.5)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:]]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    scheduler_command = ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0")
    worker_command = ("worker", address, "--nthreads", "2", "--no-dashboard")
    scheduler, worker = start(*scheduler_command), start(*worker_command)
    try:
        with Client(address, timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        executor = start_executor(Execution("cpu", scheduler=address), threads=1)
        told: list[str] = []
        results = executor.map(slowly, range(150), notify=told.append)
        found = list(islice(results, 20))
        scheduler.kill()
        scheduler.wait()
        worker.wait(60)  # it leaves with its scheduler, as workers do
        scheduler, worker = start(*scheduler_command), start(*worker_command)
        found += results
        assert sorted(found) == list(range(150))
        assert "waiting for it" in told[0]
        executor.close()
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait(30)


def test_a_scheduler_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RETURN_S", 0.5)
    cluster = LocalCluster(n_workers=1, processes=False, memory_limit=0, dashboard_address="127.0.0.1:0")
    address = cluster.scheduler_address
    executor = DaskExecutor(partial(Client, address, timeout="1s", set_as_default=False), description="one")
    results = executor.map(slowly, range(1000))
    next(results)
    cluster.close()
    with pytest.raises(ClusterError, match="the Dask scheduler is gone"):
        list(results)
    executor.close()


def test_a_worker_that_does_not_answer_holds_nobody_up() -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        executor = DaskExecutor(partial(Client, cluster, set_as_default=False), description="two")
        pids = executor.on_each_worker(pid_of_worker, None)
        frozen, other = pids.values()
        assert isinstance(frozen, int)
        os.kill(frozen, signal.SIGSTOP)
        try:
            answers = list(executor.on_each_worker(pid_of_worker, None, timeout_s=1.0).values())
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert other in answers
        assert any(isinstance(answer, ClusterError) and "within 1 s" in str(answer) for answer in answers)
        executor.close()


def pid_of_worker(task: None) -> int:
    return os.getpid()


HUNG: list[object] = []
LET_GO = threading.Event()


def hang_once(number: int) -> tuple[int, object]:
    """A worker whose file system hangs at one tile, and no other does; all are in this process."""
    if number == 4 and not HUNG:
        HUNG.append(name_of_worker())
        LET_GO.wait(90)
    time.sleep(0.01)
    return number, name_of_worker()


def test_a_task_that_is_stuck_is_begun_elsewhere_too(
    threads: tuple[DaskExecutor, LocalCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_map, "POLL_S", 0.2)
    monkeypatch.setattr(task_map, "STUCK_S", 0.5)
    monkeypatch.setattr(task_map, "STUCK_TIMES", 1)
    told: list[str] = []
    found = list(threads[0].map(hang_once, range(12), notify=told.append))
    LET_GO.set()
    assert sorted(number for number, _ in found) == list(range(12)), "each once"
    assert "another worker starts it too" in told[0]
    assert dict(found)[4] != HUNG[0]
