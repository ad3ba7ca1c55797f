"""Dask workers of one thread in one process until it is killed: python -m tests.benchmarks.crowd_host ADDRESS COUNT."""

from __future__ import annotations

import asyncio
import sys

from distributed import Worker


async def host(address: str, count: int) -> None:
    """So many, until all are closed."""
    workers = [Worker(address, nthreads=1, memory_limit=0, dashboard=False) for _ in range(count)]
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


if __name__ == "__main__":
    asyncio.run(host(sys.argv[1], int(sys.argv[2])))
