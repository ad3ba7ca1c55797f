"""Who works for a client, as its scheduler knows them and as they say themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from distributed import Client

from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.runtime.types import SchedulerInfo, WorkerInfo


def roster_of(client: Client) -> SchedulerInfo:
    """All workers, and the versions of the scheduler's own packages. Raises what a client raises without one."""
    info: dict[str, Any] = client.scheduler_info(n_workers=-1)
    said: dict[str, Any] = client.sync(client.scheduler.versions)  # type: ignore[union-attr]
    versions = {name: str(version) for name, version in said.get("packages", {}).items() if version}
    return SchedulerInfo(versions, {address: _member(worker) for address, worker in info["workers"].items()})


def ask_everywhere(
    client: Client, function: Callable[[Any], Any], task: object, patience_s: float
) -> dict[str, Any | WsiMagnetError]:
    """What a function answers on each worker, at once and whatever it is at; `ClusterError` for one that does not.

    Not by tasks: a worker that lacks this program cannot even say so of one. Raises what a client raises without a
    scheduler.
    """

    async def ask(address: str) -> Any:
        asked: Any = client.run(_asked, function, task, workers=[address], on_error="return")
        try:
            return _answer(address, (await asyncio.wait_for(asked, patience_s))[address])
        except TimeoutError:
            return ClusterError(f"the worker {address} did not answer within {patience_s:g} s")
        except (OSError, LookupError) as error:  # it has just gone
            return _answer(address, error)

    async def ask_all(addresses: list[str]) -> list[Any]:
        return await asyncio.gather(*map(ask, addresses))

    addresses = list(client.nthreads())
    answers: list[Any] = client.sync(ask_all, addresses)  # type: ignore[no-untyped-call,unused-ignore]
    return dict(zip(addresses, answers, strict=True))


def _asked(function: Callable[[Any], Any], task: object) -> Any:
    """Runs on the worker."""
    try:
        return function(task)
    except WsiMagnetError as error:
        return error


def _answer(address: str, answer: Any) -> Any:
    if isinstance(answer, BaseException) and not isinstance(answer, WsiMagnetError):
        return ClusterError(f"the worker {address} did not answer ({type(answer).__name__}: {answer})")
    return answer


def _member(worker: dict[str, Any]) -> WorkerInfo:
    return WorkerInfo(
        str(worker.get("name", "")),
        int(worker["nthreads"]),
        dict(worker.get("resources", {})),
        worker.get("memory_limit") or None,
        time.time() - worker.get("last_seen", time.time()),
    )
