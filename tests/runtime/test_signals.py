"""Ctrl-C reaches the coordinating process alone, not the processes that work for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from types import FrameType, SimpleNamespace

import pytest

from wsi_magnet.config import Execution
from wsi_magnet.runtime import start
from wsi_magnet.runtime.clusters import local
from wsi_magnet.runtime.signals import children_ignore_ctrl_c

MASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def test_threads_started_within_and_their_children_are_deaf() -> None:
    go, told = threading.Event(), []

    def spawn() -> None:
        go.wait(10)
        told.append(subprocess.run([sys.executable, "-c", MASK], capture_output=True, text=True, check=True).stdout)

    with children_ignore_ctrl_c():
        thread = threading.Thread(target=spawn)
        thread.start()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    go.set()  # long after, as a worker that is started again
    thread.join()
    assert told == ["True\n"]


def receive(number: int, reached: list[str]) -> None:
    """A signal to this process while its workers start."""
    with children_ignore_ctrl_c():
        os.kill(os.getpid(), number)
        time.sleep(0.3)  # another thread may be given it, and is in no hurry
        reached.append("the end")


@pytest.mark.parametrize("threads", [0, 1])
def test_ctrl_c_within_is_heard_afterwards(threads: int) -> None:
    end = threading.Event()
    others = [threading.Thread(target=end.wait) for _ in range(threads)]
    for other in others:
        other.start()  # it may be handed to one of these
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        receive(signal.SIGINT, reached)
    end.set()
    assert reached == ["the end"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_within_is_handled_afterwards_too() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    reached: list[str] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            receive(signal.SIGTERM, reached)
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
    assert reached == ["the end"]


class Made:
    """A cluster during whose start a signal comes."""

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen
        signal.raise_signal(signal.SIGTERM)
        seen.append("started")

    def close(self) -> None:
        """Stop it."""
        self._seen.append("closed")


def test_a_cluster_is_started_and_closed_where_a_signal_comes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left half started, Dask would close it at the end of the program with a traceback."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "LocalCluster", Made)
    before = signal.signal(signal.SIGTERM, stop)
    seen: list[str] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            local.start_local(seen=seen)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["started", "closed"]


def test_a_cluster_is_closed_where_a_signal_comes_before_its_executor_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    seen: list[str] = []
    cluster = SimpleNamespace(close=lambda: seen.append("closed"))
    monkeypatch.setattr(start, "start_local", lambda **_: cluster)
    monkeypatch.setattr(start, "DaskExecutor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start.start_executor(Execution(), 1)
    assert seen == ["closed"]


def test_a_batch_system_leaves_ctrl_c_as_it_is() -> None:
    if find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed")
    code = (
        "import signal; from pathlib import Path; from wsi_magnet.runtime.clusters.spec import parse_cluster;"
        "from wsi_magnet.runtime.clusters.batch import job_script; before = signal.getsignal(signal.SIGINT);"
        "values = {'kind': 'slurm', 'workers': 1, 'options': {'cores': 1, 'memory': '1GB'}};"
        "job_script(parse_cluster(values, Path('c.yaml'))); print(signal.getsignal(signal.SIGINT) is before)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
