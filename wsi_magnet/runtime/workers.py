"""The workers of a client: as their scheduler describes them, and a function's result on each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from distributed import Client

from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.runtime.types import SchedulerInfo, WorkerInfo


def info_of(client: Client) -> SchedulerInfo:
    """All workers, and the versions of the scheduler's packages. Raises what a client raises without a scheduler."""
    info: dict[str, Any] = client.scheduler_info(n_workers=-1)
    reported: dict[str, Any] = client.sync(client.scheduler.versions)  # type: ignore[union-attr]
    versions = {name: str(version) for name, version in reported.get("packages", {}).items() if version}
    return SchedulerInfo(versions, {address: _worker(worker) for address, worker in info["workers"].items()})


def run_on_each_worker(
    client: Client, function: Callable[[Any], Any], task: object, timeout_s: float
) -> dict[str, Any | WsiMagnetError]:
    """The result of a function on each worker, all at once and beside their tasks; `ClusterError` where it has none.

    Not by tasks: a worker that lacks this program could not even report an error of one. Raises what a client raises
    without a scheduler.
    """

    async def one(address: str) -> Any:
        running: Any = client.run(_run, function, task, workers=[address], on_error="return")
        try:
            return _result(address, (await asyncio.wait_for(running, timeout_s))[address])
        except TimeoutError:
            return ClusterError(f"the worker {address} did not answer within {timeout_s:g} s")
        except (OSError, LookupError) as error:  # it has just gone
            return _result(address, error)

    async def all_of(addresses: list[str]) -> list[Any]:
        return await asyncio.gather(*map(one, addresses))

    addresses = list(client.nthreads())
    results: list[Any] = client.sync(all_of, addresses)  # type: ignore[no-untyped-call,unused-ignore]
    return dict(zip(addresses, results, strict=True))


def _run(function: Callable[[Any], Any], task: object) -> Any:
    """Runs on the worker."""
    try:
        return function(task)
    except WsiMagnetError as error:
        return error


def _result(address: str, result: Any) -> Any:
    if isinstance(result, BaseException) and not isinstance(result, WsiMagnetError):
        return ClusterError(f"the worker {address} did not answer ({type(result).__name__}: {result})")
    return result


def _worker(worker: dict[str, Any]) -> WorkerInfo:
    return WorkerInfo(
        str(worker.get("name", "")),
        int(worker["nthreads"]),
        dict(worker.get("resources", {})),
        worker.get("memory_limit") or None,
        time.time() - worker.get("last_seen", time.time()),
    )
