"""The Dask executor: every task once, a bounded number in flight, errors as raised, and no hang."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest
from distributed import Client, LocalCluster

from wsi_magnet.config import Execution
from wsi_magnet.errors import ClusterError, StoreError
from wsi_magnet.runtime import task_map
from wsi_magnet.runtime.dask_executor import DaskExecutor
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.runtime.start import start_executor
from wsi_magnet.runtime.types import Executor


@pytest.fixture(scope="module", params=["serial", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Each of them."""
    one: Executor = SerialExecutor() if request.param == "serial" else start_executor(Execution("cpu"), threads=2)
    yield one
    one.close()


def square(number: int) -> int:
    return number * number


def test_every_task_once(executor: Executor) -> None:
    assert sorted(executor.map(square, range(100))) == [n * n for n in range(100)]
    assert list(executor.map(square, [])) == []


def test_tasks_are_taken_as_they_are_needed(executor: Executor) -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(10_000):
            taken.append(number)
            yield number

    results = executor.map(square, tasks())
    next(results)
    assert len(taken) < 50, "a plan of a million tiles must not be submitted at once"


def refuse(number: int) -> int:
    raise StoreError(f"tile {number}: no space left")


def test_our_errors_come_back_as_they_are(executor: Executor) -> None:
    with pytest.raises(StoreError, match="tile 7: no space left"):
        list(executor.map(refuse, [7]))


def test_without_workers_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_map, "POLL_S", 0.2)
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        lonely = DaskExecutor(partial(Client, cluster, set_as_default=False), description="nobody", no_workers_s=1.0)
        with pytest.raises(ClusterError, match="no worker has been there"):
            list(lonely.map(square, [1, 2]))
        lonely.close()


def test_a_scheduler_without_workers_is_refused() -> None:
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(ClusterError, match=f"no workers; start some with `dask worker {cluster.scheduler_address}`"),
    ):
        start_executor(Execution("cpu", scheduler=cluster.scheduler_address), threads=1)


@pytest.fixture(params=["mute", "web"])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something that listens and is no scheduler: it says nothing, or speaks as a web server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    other, _ = server.accept()
                    kept.append(other)
                    if request.param == "web":
                        other.sendall(b"HTTP/1.0 400 Bad request\r\n\r\n" * 20)

        kept: list[socket.socket] = []
        threading.Thread(target=greet, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        for one in kept:
            one.close()


def test_what_listens_and_is_no_scheduler(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_magnet.runtime.start._CONNECT_S", 1.0)
    with pytest.raises(ClusterError, match=f"no Dask scheduler answers at {stranger}"):
        start_executor(Execution("cpu", scheduler=stranger), threads=1)


def test_a_worker_is_no_scheduler() -> None:
    with LocalCluster(n_workers=1, processes=True, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        (address,) = cluster.scheduler_info["workers"]
        with pytest.raises(ClusterError, match="a Worker answers"):
            start_executor(Execution("cpu", scheduler=address), threads=1)
