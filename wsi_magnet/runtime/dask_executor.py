"""The executor on Dask workers.

Only small task descriptions and results pass through the scheduler. A bounded number is in flight at any time, so a
plan of a million tiles costs the scheduler no more than one of a hundred.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import count

from distributed import Client

from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.runtime.connection import GONE, SCHEDULER_GONE, Connection
from wsi_magnet.runtime.task_map import MapContext, TaskMap
from wsi_magnet.runtime.types import Executor, Notify, Result, SchedulerInfo, Task
from wsi_magnet.runtime.workers import info_of, run_on_each_worker

GPU_RESOURCE = "GPU"
"""Name of the Dask resource that a worker with a GPU declares (dask worker --resources GPU=1)."""

NO_WORKERS_S = 120.0
"""A nanny restarts a lost worker within seconds, or within a minute or so on a machine full of work, where Python alone
takes half a minute to start; after this time no worker will come."""


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
        no_workers_s: float = NO_WORKERS_S,
        on_poll: Callable[[], object] = lambda: None,
        workers_pending: Callable[[], bool] = lambda: False,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        """connect: makes a client, whenever one is needed. no_workers_s: time without any worker before a map fails.

        on_poll: called every few seconds of a map. workers_pending: true if workers are expected though none is there;
        raises ClusterError if none can come. on_close: called after the client is closed.
        """
        self.description, self.device, self.dashboard = description, device, dashboard
        connection = Connection(connect)
        resources = {GPU_RESOURCE: 1} if wants_gpu and has_gpu_workers(connection.client) else None
        self._context = MapContext(
            connection, resources, count(), threading.Lock(), no_workers_s, on_poll, workers_pending
        )
        self._priority = 0
        self._on_close = on_close

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        on_lost: Callable[[Task, str], Result] | None = None,
        retry_if: Callable[[Result], bool] | None = None,
        notify: Notify | None = None,
    ) -> Generator[Result, None, None]:
        """See `Executor.map`."""
        return TaskMap(self._context, self._priority, function, on_lost, retry_if, notify or (lambda text: None)).run(
            tasks
        )

    def with_priority(self, priority: int) -> Executor:
        """See `Executor.with_priority`."""
        other = copy.copy(self)
        other._priority = priority
        return other

    @property
    def slots(self) -> int:
        """Threads of all workers. Raises ClusterError."""
        with _scheduler_needed():
            return sum(self._context.connection.workers().values())

    def on_each_worker(
        self, function: Callable[[Task], Result], task: Task, *, timeout_s: float = 60.0
    ) -> dict[str, Result | WsiMagnetError]:
        """See `Executor.on_each_worker`."""
        client = self._context.connection.client
        with _scheduler_needed():
            return run_on_each_worker(client, function, task, timeout_s)

    def scheduler_info(self) -> SchedulerInfo:
        """See `Executor.scheduler_info`."""
        with _scheduler_needed():
            return info_of(self._context.connection.client)

    def call_on_close(self, last: Callable[[], object]) -> None:
        """Call `last` too, after all else is closed."""
        first = self._on_close

        def both() -> None:
            try:
                first()
            finally:
                last()

        self._on_close = both

    def close(self) -> None:
        """Disconnect, and stop the workers that were started for this executor."""
        try:
            self._context.connection.close()
        finally:
            self._on_close()


def has_gpu_workers(client: Client) -> bool:
    """True if a worker declares a GPU."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker.get("resources", {}).get(GPU_RESOURCE, 0) > 0 for worker in workers)


@contextmanager
def _scheduler_needed() -> Iterator[None]:
    try:
        yield
    except GONE as error:
        raise ClusterError(SCHEDULER_GONE) from error
