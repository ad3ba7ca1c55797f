"""Worker processes of this machine that died while they were starting: Dask leaves those dead, here they come back."""

from __future__ import annotations

import threading
import time

from distributed import LocalCluster, Status

EVERY_S = 5.0


class Revival:
    """Called now and then, it starts what is gone; safe to call from several threads."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._looked = time.monotonic()

    def __call__(self) -> None:
        """Start a nanny again for each that has ended; a nanny itself sees to a worker that dies at work."""
        if time.monotonic() - self._looked < EVERY_S or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked = time.monotonic()
            loop = self._cluster.loop
            if loop is not None and self._cluster.status == Status.running and self._ended():
                loop.add_callback(self._revive)
        finally:
            self._lock.release()

    def _ended(self) -> list[object]:
        return [
            name for name, one in list(self._cluster.workers.items()) if one.status in (Status.closed, Status.failed)
        ]

    async def _revive(self) -> None:
        for name in self._ended():
            self._cluster.workers.pop(name, None)
        await self._cluster  # starts what its specification names and is not there
