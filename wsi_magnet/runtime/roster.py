"""Who works for a client, as its scheduler knows them."""

from __future__ import annotations

import time
from typing import Any

from distributed import Client

from wsi_magnet.runtime.types import Member, Roster


def roster_of(client: Client) -> Roster:
    """All workers, and the versions of the scheduler's own packages. Raises what a client raises without one."""
    info: dict[str, Any] = client.scheduler_info(n_workers=-1)
    said: dict[str, Any] = client.sync(client.scheduler.versions)  # type: ignore[union-attr]
    versions = {name: str(version) for name, version in said.get("packages", {}).items() if version}
    return Roster(versions, {address: _member(worker) for address, worker in info["workers"].items()})


def _member(worker: dict[str, Any]) -> Member:
    return Member(
        str(worker.get("name", "")),
        int(worker["nthreads"]),
        dict(worker.get("resources", {})),
        worker.get("memory_limit") or None,
        time.time() - worker.get("last_seen", time.time()),
    )
