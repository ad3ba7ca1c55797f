"""What works on a batch: processes where nothing else is asked for, and what each worker says of itself."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from wsi_magnet.config import Execution
from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.results.record import versions
from wsi_magnet.runtime.types import Executor
from wsi_magnet.system import cpu_threads

MOST_IN_FLIGHT = 16

SLOTS_A_SLIDE = 16
"""Of the tasks that can run at once: for each so many another slide is in flight. Two are the least, so that no worker
waits while one slide ends and the next begins."""

THREADS_A_PROCESS = 8
"""A slide that crashes its reader takes one process with it, and the batch goes on."""


@contextmanager
def heard(tell: Callable[[str], None]) -> Iterator[None]:
    """Within it, what the program warns of in its logs, as of jobs that wait in a queue, is told to people instead."""
    logger, handler = logging.getLogger("wsi_magnet"), _Telling(tell)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Telling(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


def start_workers(execution: Execution) -> Executor:
    """The workers that are asked for; where nothing is, processes of this machine. Raises ClusterError, ConfigError."""
    from wsi_magnet.segment.run import feeding, start  # with torch and Dask, which a finished batch does without

    threads = cpu_threads()
    asked = (execution.workers, execution.scheduler, execution.cluster) != (None, None, None)
    if asked or feeding(execution.device, threads):
        return start(execution)
    return start(replace(execution, workers=max(1, threads // THREADS_A_PROCESS)))


DESCRIBED_WITHIN_S = 20.0
"""Only the log wants to know, so a worker that hangs does not hold up the others for long."""


class InFlight:
    """How many slides may be under way: as many as somebody asks for, or enough for the workers that are there."""

    def __init__(self, asked: int | None, executor: Executor) -> None:
        self._asked, self._executor = asked, executor
        self._most = 1

    def __call__(self) -> int:
        """Now; it grows with the workers, and does not shrink again. A scheduler that is away has not to answer."""
        if self._asked is not None:
            return self._asked
        with suppress(ClusterError):
            self._most = max(self._most, enough_in_flight(self._executor.slots))
        return self._most


def enough_in_flight(slots: int) -> int:
    """Slides at once, for so many tasks at once."""
    return min(2 + slots // SLOTS_A_SLIDE, MOST_IN_FLIGHT)


def described(executor: Executor) -> Mapping[str, Any]:
    """What each worker says of itself, or why it does not, by its name. Raises ClusterError."""
    answers = executor.on_each_worker(describe_worker, None, timeout_s=DESCRIBED_WITHIN_S)
    return {
        name: {"error": str(answer)} if isinstance(answer, WsiMagnetError) else answer
        for name, answer in answers.items()
    }


def describe_worker(task: None) -> dict[str, Any]:
    """Runs on the worker."""
    return {"host": socket.gethostname(), "process": os.getpid(), "threads": cpu_threads(), "versions": versions()}
