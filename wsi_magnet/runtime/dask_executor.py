"""The executor on Dask workers: what is begun next, and what becomes of a task whose worker refuses it or dies.

Only the small task descriptions and results pass through the scheduler. A bounded number is under way at any time, so a
plan of a million tiles costs the scheduler no more than one of a hundred.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from distributed import Client

from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.runtime.connection import GONE, SCHEDULER_GONE, Connection
from wsi_magnet.runtime.mapping import Mapping
from wsi_magnet.runtime.types import Executor, Notify, Result, SchedulerInfo, Task
from wsi_magnet.runtime.under_way import Tools
from wsi_magnet.runtime.workers import ask_everywhere, roster_of

GPU_RESOURCE = "GPU"
"""Name of the Dask resource that a worker with a GPU declares (dask worker --resources GPU=1)."""

DESERTED_S = 120.0
"""A lost worker's supervisor starts another one within seconds, and within a minute or so on a machine full of work,
where Python alone takes half a minute to start; after this nobody does."""


class DaskExecutor:
    """Runs tasks on the workers of a Dask client; safe to use from several threads."""

    def __init__(
        self,
        connect: Callable[[], Client],
        *,
        description: str,
        device: str = "auto",
        dashboard: str | None = None,
        wants_gpu: bool = False,
        deserted_s: float = DESERTED_S,
        tend: Callable[[], object] | None = None,
        coming: Callable[[], bool] | None = None,
        stop: Callable[[], object] | None = None,
    ) -> None:
        """`connect` makes a client whenever one is needed; `stop` ends the workers that were started for this.

        deserted_s: how long nobody may be there to work. tend: called every few seconds of work. coming: whether
        workers are on their way though none is there; raises ClusterError if it is known that none comes.
        """
        self.description, self.device, self.dashboard = description, device, dashboard
        connection = Connection(connect)
        resources = {GPU_RESOURCE: 1} if wants_gpu and has_gpu_workers(connection.client) else None
        self._tools = Tools(
            connection, resources, count(), threading.Lock(), deserted_s, tend or _nothing, coming or _nobody
        )
        self._rank = 0
        self._stop = stop

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        lost: Callable[[Task, str], Result] | None = None,
        again: Callable[[Result], bool] | None = None,
        tell: Notify | None = None,
    ) -> Iterator[Result]:
        """See `Executor.map`."""
        return Mapping(self._tools, self._rank, function, lost, again, tell or _silently).run(tasks)

    def ranked(self, rank: int) -> Executor:
        """See `Executor.ranked`."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._rank = rank
        return other

    @property
    def slots(self) -> int:
        """Threads of all workers. Raises ClusterError."""
        try:
            return sum(self._tools.connection.workers().values())
        except GONE as error:
            raise ClusterError(SCHEDULER_GONE) from error

    def everywhere(
        self, function: Callable[[Task], Result], task: Task, *, patience_s: float = 60.0
    ) -> dict[str, Result | WsiMagnetError]:
        """See `Executor.everywhere`."""
        client = self._tools.connection.client
        try:
            return ask_everywhere(client, function, task, patience_s)
        except GONE as error:
            raise ClusterError(SCHEDULER_GONE) from error

    def scheduler_info(self) -> SchedulerInfo:
        """See `Executor.scheduler_info`."""
        try:
            return roster_of(self._tools.connection.client)
        except GONE as error:
            raise ClusterError(SCHEDULER_GONE) from error

    def close(self) -> None:
        """Disconnect, and stop the workers that were started here."""
        self._tools.connection.close()
        if self._stop is not None:
            self._stop()


def has_gpu_workers(client: Client) -> bool:
    """True where a worker declares one."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker.get("resources", {}).get(GPU_RESOURCE, 0) > 0 for worker in workers)


def _nothing() -> None:
    """Workers that others tend."""


def _nobody() -> bool:
    """Workers that others start."""
    return False


def _silently(text: str) -> None:
    """For those who do not listen."""
