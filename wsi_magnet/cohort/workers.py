"""The workers of a batch: their start, their description for the log, and the number of slides in flight."""

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

SLOTS_PER_SLIDE = 16
"""Tasks at once for which one more slide is in flight. At least two are, so that no worker idles between two slides."""

THREADS_PER_PROCESS = 8
"""A slide that crashes its reader takes one process with it, and the batch continues."""

DESCRIBE_TIMEOUT_S = 20.0
"""Only the log needs the descriptions, so a hung worker does not delay the batch for long."""


@contextmanager
def forward_warnings(notify: Callable[[str], None]) -> Iterator[None]:
    """Context that hands the program's log warnings, such as jobs that wait in a queue, to `notify`."""
    logger, handler = logging.getLogger("wsi_magnet"), _Forwarding(notify)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Forwarding(logging.Handler):
    def __init__(self, notify: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._notify = notify

    def emit(self, record: logging.LogRecord) -> None:
        self._notify(record.getMessage())


def start_workers(execution: Execution) -> Executor:
    """Start the workers of `execution`; by default processes of this machine. Raises ClusterError, ConfigError."""
    from wsi_magnet.segment import executors  # with torch and Dask, which a finished batch does not need

    threads = cpu_threads()
    chosen = (execution.workers, execution.scheduler, execution.cluster) != (None, None, None)
    if chosen or executors.count_gpu_processes(execution.device, threads):
        return executors.start_workers(execution)
    return executors.start_workers(replace(execution, workers=max(1, threads // THREADS_PER_PROCESS)))


class InFlightLimit:
    """Greatest number of slides in flight: as the user chose, or enough for the current workers."""

    def __init__(self, chosen: int | None, executor: Executor) -> None:
        self._chosen, self._executor = chosen, executor
        self._most = 1

    def __call__(self) -> int:
        """The limit now; it grows with the workers and never shrinks. An unreachable scheduler does not change it."""
        if self._chosen is not None:
            return self._chosen
        with suppress(ClusterError):
            self._most = max(self._most, enough_in_flight(self._executor.slots))
        return self._most


def enough_in_flight(slots: int) -> int:
    """Slides in flight that keep all workers busy. slots: tasks that can run at once."""
    return min(2 + slots // SLOTS_PER_SLIDE, MOST_IN_FLIGHT)


def describe_workers(executor: Executor) -> Mapping[str, Any]:
    """Description of each worker, or its error, by its name. Raises ClusterError."""
    answers = executor.on_each_worker(describe_worker, None, timeout_s=DESCRIBE_TIMEOUT_S)
    return {
        name: {"error": str(answer)} if isinstance(answer, WsiMagnetError) else answer
        for name, answer in answers.items()
    }


def describe_worker(task: None) -> dict[str, Any]:
    """Host, process, threads and versions of the calling worker."""
    return {"host": socket.gethostname(), "process": os.getpid(), "threads": cpu_threads(), "versions": versions()}
