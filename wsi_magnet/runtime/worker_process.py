"""What a worker process does first; Dask's nanny imports this by name and calls `dask_setup`."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the run: it stops its workers itself.

    SIGTERM, which batch systems send before they kill a job, lets the worker hand its tiles back to the scheduler,
    which then blames none of them for its end. Where the job goes on, its nanny starts another one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = asyncio.get_running_loop()
    leaving: set[asyncio.Task[None]] = set()

    async def leave() -> None:
        with suppress(OSError):  # the scheduler, or the nanny, was quicker
            await worker.close_gracefully(restart=True, reason="SIGTERM")

    loop.add_signal_handler(signal.SIGTERM, lambda: leaving.add(loop.create_task(leave())))
