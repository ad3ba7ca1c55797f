"""Who works for a client, as its scheduler knows them and as they say themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from distributed import Client, Future, wait

from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.runtime.answers import Answer, Packed, answered, outcome
from wsi_magnet.runtime.types import Member, Roster

ABOVE_ALL = 1_000_000
"""A priority in Dask's sense."""


def roster_of(client: Client) -> Roster:
    """All workers, and the versions of the scheduler's own packages. Raises what a client raises without one."""
    info: dict[str, Any] = client.scheduler_info(n_workers=-1)
    said: dict[str, Any] = client.sync(client.scheduler.versions)  # type: ignore[union-attr]
    versions = {name: str(version) for name, version in said.get("packages", {}).items() if version}
    return Roster(versions, {address: _member(worker) for address, worker in info["workers"].items()})


def ask_everywhere(
    client: Client, function: Callable[[Any], Any], task: object, patience_s: float
) -> dict[str, Any | WsiMagnetError]:
    """What a function answers on each worker, before all that waits there; `ClusterError` for one that does not.

    Raises what a client raises without a scheduler.
    """
    packed = Packed.of(function)
    asked: dict[str, Future[Any]] = {
        address: client.submit(answered, packed, task, workers=[address], priority=ABOVE_ALL, pure=False)
        for address in client.nthreads()
    }
    with suppress(TimeoutError), client.as_current():
        wait(list(asked.values()), timeout=patience_s)
    answers = {address: _answer(address, future, patience_s) for address, future in asked.items()}
    client.cancel(list(asked.values()))
    return answers


def _answer(address: str, future: Future[Any], patience_s: float) -> Any:
    if not future.done():
        return ClusterError(f"the worker {address} did not answer within {patience_s:g} s")
    answer = outcome(future)
    if isinstance(answer, Answer):
        return answer.value
    return ClusterError(f"the worker {address} did not answer ({type(answer).__name__}: {answer})")


def _member(worker: dict[str, Any]) -> Member:
    return Member(
        str(worker.get("name", "")),
        int(worker["nthreads"]),
        dict(worker.get("resources", {})),
        worker.get("memory_limit") or None,
        time.time() - worker.get("last_seen", time.time()),
    )
