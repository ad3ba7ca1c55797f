"""Ctrl-C reaches the coordinating process alone, not the processes that work for it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
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


def receive(number: int, reached: list[str], thread: int, given: int | None = None) -> None:
    """A signal to a thread of this process while its workers start; `given`: readable from when the thread has it."""
    with children_ignore_ctrl_c():
        signal.pthread_kill(thread, number)
        if given is not None:
            select.select([given], [], [], 60)
        reached.append("the end")


def test_ctrl_c_within_is_heard_afterwards() -> None:
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        receive(signal.SIGINT, reached, threading.get_ident())
    assert_heard(reached)


def test_ctrl_c_that_another_thread_is_given_is_heard_afterwards_too() -> None:
    """A terminal's signal is for the process, and only the main thread has it blocked."""
    end, reached = threading.Event(), list[str]()
    thread = threading.Thread(target=end.wait)
    thread.start()
    given, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    before = signal.set_wakeup_fd(wakeup)
    try:
        with pytest.raises(KeyboardInterrupt):
            receive(signal.SIGINT, reached, thread.ident or 0, given)
    finally:
        signal.set_wakeup_fd(before)
        end.set()
        os.close(given)
        os.close(wakeup)
    assert_heard(reached)


def assert_heard(reached: list[str]) -> None:
    """All was done within, and Ctrl-C is as before."""
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
            receive(signal.SIGTERM, reached, threading.get_ident())
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
