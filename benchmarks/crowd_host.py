"""A crowd of Dask workers of one thread, dozens in a process; each process is this module: ADDRESS COUNT."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import dask
import psutil
from distributed import Client, Worker

import benchmarks.simulated  # noqa: F401 - and everything that the first task would import

PROCESSES = 4

NOT_SIMULATED = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
}
"""Settings that switch periodic work off, on which dozens of workers in one process would spend all their time."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """A scheduler and its workers."""

    address: str
    workers: int
    scheduler: psutil.Process
    hosts: Sequence[psutil.Process]
    """Processes of the workers."""


@contextmanager
def gathered(workers: int) -> Iterator[Crowd]:
    """A scheduler and that many workers, ready for tasks."""
    words = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with ExitStack() as stack:
        scheduler = stack.enter_context(_running([*words]))
        address = _address(scheduler)
        threading.Thread(target=lambda: [None for _ in scheduler.stderr or ()], daemon=True).start()
        each = [workers // PROCESSES + (i < workers % PROCESSES) for i in range(PROCESSES)]
        hosts = [
            stack.enter_context(_running(["-m", "benchmarks.crowd_host", address, str(n)], quiet=True)) for n in each
        ]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=120)
        processes = [psutil.Process(one.pid) for one in hosts]
        yield Crowd(address, workers, psutil.Process(scheduler.pid), processes)


@contextmanager
def _running(words: Sequence[str], *, quiet: bool = False) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.DEVNULL if quiet else subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _address(scheduler: subprocess.Popen[str]) -> str:
    assert scheduler.stderr is not None
    for line in scheduler.stderr:
        if "Scheduler at:" in line:
            return line.split()[-1]
    raise RuntimeError("the scheduler does not start")


async def host(address: str, count: int) -> None:
    """Run that many workers until all are closed."""
    dask.config.set(NOT_SIMULATED)
    workers = [Worker(address, nthreads=1, memory_limit=0, dashboard=False) for _ in range(count)]
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


if __name__ == "__main__":
    asyncio.run(host(sys.argv[1], int(sys.argv[2])))
