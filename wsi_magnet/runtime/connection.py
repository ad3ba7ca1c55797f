"""The way to a Dask scheduler, which may be lost and found again; shared by all threads that map over its workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from distributed import Client
from distributed.comm.core import CommClosedError

from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.types import Notify

RETURN_S = 300.0
"""How long a scheduler that went away, or a network that was cut, is waited for."""

_PAUSE_S = 2.0
_FRESH_S = 2.0

GONE = (OSError, TimeoutError, CommClosedError)
"""What a client raises when its scheduler is not there."""

SCHEDULER_GONE = "the Dask scheduler is gone; start it and run the same command again"


class Connection:
    """A client, and how to make the next one when it has lost its scheduler."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client = connect()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._threads: dict[str, int] = {}
        self._counted = float("-inf")

    @property
    def client(self) -> Client:
        """The one that is there now. Raises ClusterError after `close`."""
        if self._closed.is_set():
            raise ClusterError("the work was stopped")
        return self._client

    def workers(self) -> dict[str, int]:
        """Threads of each worker by its address, as of a few seconds ago. Raises one of `GONE`."""
        if time.monotonic() - self._counted > _FRESH_S:
            threads = {address: int(n) for address, n in self.client.nthreads().items()}
            self._threads, self._counted = threads, time.monotonic()
        return self._threads

    def renew(self, lost: Client, tell: Notify) -> None:
        """Have a client again after `lost` has failed; only the first thread that asks does anything.

        Raises ClusterError if the scheduler has not come back in time, or `close` was called.
        """
        with self._lock:
            if self.client is not lost:
                return
            tell("the Dask scheduler does not answer; waiting for it")
            with suppress(Exception):
                lost.close(timeout=1)
            self._client = self._found_again()
            self._counted = float("-inf")
            tell("the Dask scheduler is there again; what was under way is begun again")

    def _found_again(self) -> Client:
        deadline = time.monotonic() + RETURN_S
        while True:
            try:
                return self._connect()
            except GONE as error:
                if time.monotonic() > deadline:
                    raise ClusterError(SCHEDULER_GONE) from error
            if self._closed.wait(_PAUSE_S):
                raise ClusterError("the work was stopped")

    def close(self) -> None:
        """Disconnect; threads that wait for anything are told so by a ClusterError."""
        self._closed.set()
        if self._client.status != "closed":
            self._client.close()
