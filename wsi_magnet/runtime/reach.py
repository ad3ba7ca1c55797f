"""Whether a Dask scheduler answers at an address, asked before a client is made: a client asks without end."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed import Client, Security
from distributed.comm.core import connect
from distributed.core import send_recv


def connect_to(address: str, patience_s: float) -> Client:
    """A client of the scheduler at an address. Raises OSError where none answers in time, or something else does."""
    _require_scheduler(address, patience_s)
    return Client(address, timeout=patience_s, set_as_default=False)


def _require_scheduler(address: str, patience_s: float) -> None:
    try:
        kind = asyncio.run(asyncio.wait_for(_kind(address, patience_s), patience_s))
    except TimeoutError as error:
        raise OSError(f"nothing that speaks Dask's language answers within {patience_s:g} s") from error
    except Exception as error:  # whatever comes of taking other bytes for Dask's
        raise OSError(str(error) or type(error).__name__) from error
    if kind != "Scheduler":
        raise OSError(f"a {kind} answers")


async def _kind(address: str, patience_s: float) -> Any:
    comm = await connect(address, timeout=patience_s, **Security().get_connection_args("client"))
    try:
        return (await send_recv(comm, op="identity"))["type"]
    finally:
        comm.abort()
