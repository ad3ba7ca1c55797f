"""Tasks on Dask workers: threads of this process, processes of this machine, or any running cluster.

Only the small task descriptions and results pass through the scheduler. A bounded number is under way at any time, so a
plan of a million tiles costs the scheduler no more than one of a hundred.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from itertools import count, islice
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, wait
from distributed.comm.core import CommClosedError

from wsi_magnet.config import Execution
from wsi_magnet.errors import ClusterError, ConfigError, WsiMagnetError
from wsi_magnet.runtime.cluster_spec import read_cluster
from wsi_magnet.runtime.clusters import RunningCluster
from wsi_magnet.runtime.types import Result, Task

GPU_RESOURCE = "GPU"
"""Name of the Dask resource that a worker with a GPU declares (dask worker --resources GPU=1)."""

TASKS_PER_THREAD = 3
"""Under way for each worker thread: one that runs and two that wait, so that no worker waits for the client."""

_PATIENCE_S = "30s"
_POLL_S = 5.0
_DESERTED_S = 120.0
"""A lost worker's supervisor starts another one within seconds, and within a minute or so on a machine full of work,
where Python alone takes half a minute to start; after this nobody does."""

_SCHEDULER_GONE = "the Dask scheduler is gone; start it and run the same command again"


class DaskExecutor:
    """Runs tasks on the workers of a Dask client."""

    def __init__(
        self,
        client: Client,
        *,
        description: str,
        needs_gpu: bool,
        cluster: LocalCluster | RunningCluster | None = None,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._resources = {GPU_RESOURCE: 1} if needs_gpu and _has_gpu_workers(client) else None
        self._numbers = count()
        self.description = description
        self.dashboard = (
            _local_dashboard(cluster) if isinstance(cluster, LocalCluster) else (client.dashboard_link or None)
        )

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """As the protocol says; a task whose worker dies is given to another one, up to nine times."""
        waiting = iter(tasks)
        running = {self._submit(function, task) for task in islice(waiting, self._room())}
        try:
            while running:
                done = self._wait(running)
                running -= done
                for future in done:
                    yield self._result(future)
                    running |= {self._submit(function, task) for task in islice(waiting, 1)}
        finally:
            self._client.cancel(list(running))

    def _wait(self, running: set[Future[Any]]) -> set[Future[Any]]:
        """Those that are done, at least one. Raises ClusterError if the scheduler or all workers are gone."""
        deserted_since: float | None = None
        while True:
            try:
                with self._client.as_current():
                    return set(wait(running, timeout=_POLL_S, return_when="FIRST_COMPLETED").done)
            except (CancelledError, CommClosedError) as error:
                raise ClusterError(_SCHEDULER_GONE) from error
            except TimeoutError:
                if self._client.scheduler_info(n_workers=-1)["workers"] or self._others_are_coming():
                    deserted_since = None
                    continue
            deserted_since = deserted_since or time.monotonic()
            if time.monotonic() - deserted_since > _DESERTED_S:
                raise ClusterError(
                    f"no worker has been there for {_DESERTED_S:.0f} s; start some and run the same command again"
                )

    def _others_are_coming(self) -> bool:
        """Whether workers of a cluster of our own are queued. Raises ClusterError if none can come."""
        return isinstance(self._cluster, RunningCluster) and self._cluster.coming()

    def _submit(self, function: Callable[[Any], Any], task: object) -> Future[Any]:
        # A key of our own: tasks have effects, so two equal ones of two runs must never be taken for the same work.
        name = f"{getattr(function, '__name__', type(function).__name__)}-{self._client.id}-{next(self._numbers)}"
        return self._client.submit(_explained, function, task, key=name, pure=False, resources=self._resources)

    def _room(self) -> int:
        threads: int = sum(self._client.nthreads().values())
        return max(TASKS_PER_THREAD * threads, 8)

    def _result(self, future: Future[Any]) -> Any:
        try:
            result = future.result()
        except KilledWorker as error:
            raise ClusterError(
                f"a tile killed {_allowed_failures() + 1} workers in a row (out of memory?): "
                "give each worker more memory or pass fewer --workers, and run the same command again"
            ) from error
        except (CancelledError, CommClosedError, TimeoutError) as error:
            raise ClusterError(_SCHEDULER_GONE) from error
        if isinstance(result, WsiMagnetError):
            raise result
        return result

    def close(self) -> None:
        """Disconnect, and stop the workers that were started here."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def start_executor(execution: Execution, threads: int) -> DaskExecutor:
    """The executor that `execution` asks for.

    threads: of this machine, for workers that are started here. Raises ClusterError for a scheduler that does not
    answer or has no workers, and for a cluster that cannot be made.
    """
    _quieten()
    dask.config.set(
        {
            "distributed.comm.timeouts.connect": _PATIENCE_S,
            # Tiles take seconds and hold the GIL while they copy: the default of 3 s warns about nothing.
            "distributed.admin.tick.limit": "60s",
            # Memory is planned, not watched: a worker that spills or pauses at 60 % would only make a run slower.
            "distributed.worker.memory.target": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            # Tiles that only waited on a worker are blamed for its death with the one that ran.
            "distributed.scheduler.allowed-failures": 9,
        }
    )
    if execution.scheduler is not None:
        return _remote(execution)
    if execution.cluster is not None:
        return _own_cluster(execution)
    if execution.workers is not None:
        return _processes(execution, threads)
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=threads, processes=False, memory_limit=0, dashboard_address="127.0.0.1:0"
    )
    return DaskExecutor(
        Client(cluster, set_as_default=False),
        description=f"{threads} threads of this process",
        needs_gpu=False,
        cluster=cluster,
    )


def _quieten() -> None:
    """What users can mend is said in our own words; Dask's loggers print screens of tracebacks for a lost worker."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _processes(execution: Execution, threads: int) -> DaskExecutor:
    workers = execution.workers or 1
    each = max(1, threads // workers)
    gpu = {GPU_RESOURCE: each} if execution.device.startswith("cuda") else None
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=each,
        processes=True,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        resources=gpu,
        preload=["wsi_magnet.runtime.worker_process"],
    )
    description = f"{workers} worker processes of this machine, {each} threads each"
    return DaskExecutor(
        Client(cluster, set_as_default=False), description=description, needs_gpu=gpu is not None, cluster=cluster
    )


def _remote(execution: Execution) -> DaskExecutor:
    address = execution.scheduler or ""
    try:
        client = Client(address, timeout=_PATIENCE_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({reason}); start one with `dask scheduler`"
        ) from error
    workers = client.nthreads()
    if not workers:
        client.close()
        raise ClusterError(f"the scheduler at {address} has no workers; start some with `dask worker {address}`")
    wants_gpu = execution.device.startswith(("auto", "cuda"))
    if execution.device.startswith("cuda") and not _has_gpu_workers(client):
        client.close()
        raise ClusterError(
            f"no worker of {address} declares a GPU; start them with `dask worker {address} --resources GPU=1`"
        )
    description = f"{len(workers)} workers of {address}, {sum(workers.values())} threads"
    return DaskExecutor(client, description=description, needs_gpu=wants_gpu)


def _own_cluster(execution: Execution) -> DaskExecutor:
    spec = read_cluster(execution.cluster or "")
    if execution.device.startswith("cuda") and not spec.gpu:
        raise ConfigError(f"--device {execution.device}: {spec.path} does not say gpu: true")
    cluster = RunningCluster(spec)
    try:
        cluster.wait()
        client = Client(cluster.cluster, set_as_default=False)
    except BaseException:
        cluster.close()
        raise
    needs_gpu = spec.gpu and execution.device != "cpu"
    return DaskExecutor(client, description=cluster.describe(), needs_gpu=needs_gpu, cluster=cluster)


def _explained(function: Callable[[Any], Any], task: object) -> Any:
    """Runs on the worker. Our own errors come back as values: Dask prints the traceback of any that is raised."""
    try:
        return function(task)
    except WsiMagnetError as error:
        return error


def _local_dashboard(cluster: LocalCluster) -> str | None:
    # Dask's own link names the machine's outer address, where a dashboard that listens on the inner one is not found.
    port = cluster.scheduler_info.get("services", {}).get("dashboard")
    return f"http://127.0.0.1:{port}/status" if port else None


def _allowed_failures() -> int:
    return int(dask.config.get("distributed.scheduler.allowed-failures"))


def _has_gpu_workers(client: Client) -> bool:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker.get("resources", {}).get(GPU_RESOURCE, 0) > 0 for worker in workers)
