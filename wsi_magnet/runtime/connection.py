"""A connection to a Dask scheduler that is made again when it is lost; shared by all threads that map over workers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from distributed import Client, Security
from distributed.comm.core import CommClosedError, connect
from distributed.core import send_recv

from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.types import Notify

RETURN_S = 300.0
"""Time to wait for a scheduler that went away, or a network that was cut."""

_PAUSE_S = 2.0
_FRESH_S = 2.0

GONE = (OSError, TimeoutError, CommClosedError)
"""Exceptions of a client whose scheduler is not there."""

SCHEDULER_GONE = "the Dask scheduler is gone; start it and run the same command again"


class Connection:
    """A Dask client, replaced by a new one when it has lost its scheduler."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        """connect: makes a client."""
        self._connect = connect
        self._client = connect()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._threads: dict[str, int] = {}
        self._counted = float("-inf")

    @property
    def client(self) -> Client:
        """The current client. Raises ClusterError after `close`."""
        if self._closed.is_set():
            raise ClusterError("the work was stopped")
        return self._client

    def workers(self) -> dict[str, int]:
        """Threads of each worker by its address, at most a few seconds old. Raises one of `GONE`."""
        if time.monotonic() - self._counted > _FRESH_S:
            threads = {address: int(n) for address, n in self.client.nthreads().items()}
            self._threads, self._counted = threads, time.monotonic()
        return self._threads

    def renew(self, lost: Client, notify: Notify) -> None:
        """Replace the client `lost`; only the first thread that asks does anything.

        Raises ClusterError if the scheduler has not come back within `RETURN_S`, or after `close`.
        """
        with self._lock:
            if self.client is not lost:
                return
            notify("the Dask scheduler does not answer; waiting for it")
            with suppress(Exception):
                lost.close(timeout=1)
            self._client = self._reconnect()
            self._counted = float("-inf")
            notify("the Dask scheduler is there again; tasks in flight are started again")

    def _reconnect(self) -> Client:
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
        """Disconnect; threads that wait for the scheduler raise ClusterError."""
        self._closed.set()
        if self._client.status != "closed":
            self._client.close()


def connect_to(address: str, timeout_s: float) -> Client:
    """A client of the scheduler at an address. Raises OSError if none answers in time, or something else does.

    Checked before the client is made, which would retry forever.
    """
    try:
        kind = asyncio.run(asyncio.wait_for(_kind_of_server(address, timeout_s), timeout_s))
    except TimeoutError as error:
        raise OSError(f"no Dask server answers within {timeout_s:g} s") from error
    except Exception as error:  # whatever comes of reading other bytes as Dask's
        raise OSError(str(error) or type(error).__name__) from error
    if kind != "Scheduler":
        raise OSError(f"a {kind} answers")
    return Client(address, timeout=timeout_s, set_as_default=False)


async def _kind_of_server(address: str, timeout_s: float) -> Any:
    comm = await connect(address, timeout=timeout_s, **Security().get_connection_args("client"))
    try:
        return (await send_recv(comm, op="identity"))["type"]
    finally:
        comm.abort()
