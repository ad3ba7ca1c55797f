"""Dask workers of one thread in one process until it is killed: python -m tests.benchmarks.crowd_host ADDRESS COUNT."""

from __future__ import annotations

import asyncio
import sys

import dask
from distributed import Worker

import tests.benchmarks.simulated  # noqa: F401 - with all that the first task would import

NOT_SIMULATED = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
}
"""What a worker does for itself, on a machine of its own: dozens in one process would do nothing else."""


async def host(address: str, count: int) -> None:
    """So many, until all are closed."""
    dask.config.set(NOT_SIMULATED)
    workers = [Worker(address, nthreads=1, memory_limit=0, dashboard=False) for _ in range(count)]
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


if __name__ == "__main__":
    asyncio.run(host(sys.argv[1], int(sys.argv[2])))
