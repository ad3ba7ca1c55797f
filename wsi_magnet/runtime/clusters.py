"""Clusters that a run makes for itself, of any kind, as one thing: started, waited for, watched, and let go of."""

from __future__ import annotations

import logging
import time
from inspect import signature
from typing import Any

from distributed import LocalCluster, Nanny, Worker
from distributed.core import Server

from wsi_magnet.errors import ClusterError, ConfigError
from wsi_magnet.runtime.batch_systems import PRELOAD, batch_cluster
from wsi_magnet.runtime.cluster_spec import BATCH_KINDS, ClusterSpec
from wsi_magnet.runtime.job_keeper import JobKeeper
from wsi_magnet.runtime.signals import children_deaf

logger = logging.getLogger(__name__)

ADAPT_EVERY, IDLE_LOOKS = "2s", 30
"""How often it is considered whether there is work for more workers, and in how many looks in a row a worker must have
nothing to do before it is given back: a job that took an hour to get is not let go of between two scales."""

TELL_EVERY_S = 300.0
"""Whoever waits for the first worker is told that often what the queue says."""

_LOOK_S = 0.5


class RunningCluster:
    """A cluster of this run's own."""

    def __init__(self, spec: ClusterSpec) -> None:
        """Ask for the first workers. Raises ConfigError or ClusterError."""
        self.spec = spec
        self.cluster = make_cluster(spec)
        self._keeper = JobKeeper(self.cluster, spec) if spec.kind in BATCH_KINDS else None

    @property
    def dashboard(self) -> str | None:
        """Address of the page that shows the work."""
        link: str | None = self.cluster.dashboard_link
        return link

    def wait(self) -> None:
        """Until the first worker is there; then let the cluster adapt, if it shall.

        Raises ClusterError if none comes within the patience of the user's file, or none can come.
        """
        begun = told = time.monotonic()
        while not self.workers():
            self.coming()
            now = time.monotonic()
            if now - begun > self.spec.patience_minutes * 60:
                raise ClusterError(
                    f"{self.spec.path}: no worker came within {self.spec.patience_minutes:g} minutes "
                    f"({self._queue()}); ask for less, or wait longer with patience_minutes"
                )
            if now - told > TELL_EVERY_S:
                told = now
                logger.warning("waiting for the first worker for %.0f minutes: %s", (now - begun) / 60, self._queue())
            time.sleep(_LOOK_S)
        if self.spec.adapt:
            _adapt(self.cluster, self.spec)

    def workers(self) -> dict[str, int]:
        """Threads of each worker that is there, by its address."""
        workers = self.cluster.scheduler_info["workers"]
        return {address: int(worker["nthreads"]) for address, worker in workers.items()}

    def coming(self) -> bool:
        """Whether workers are on their way though none is there. Raises ClusterError if it is known that none comes."""
        return self._keeper.coming() if self._keeper else self.spec.adapt is not None

    def close(self) -> None:
        """Let go of all workers, also of those that are still queued."""
        if self._keeper:
            self._keeper.stop()
        self.cluster.close()

    def describe(self) -> str:
        """For people: how many workers are there, of how many."""
        there = self.workers()
        threads = sum(there.values())
        return (
            f"{len(there)} of {self.spec.size} workers of {self.spec.path.name} ({self.spec.kind}), {threads} threads"
        )

    def _queue(self) -> str:
        return self._keeper.queue() if self._keeper else "see its workers' output"


def make_cluster(spec: ClusterSpec) -> Any:
    """A Dask cluster of the kind that is asked for, its first workers on their way."""
    if spec.kind in BATCH_KINDS:
        return batch_cluster(spec)
    if spec.kind == "local":
        return _local(spec)
    raise ConfigError(f"{spec.path}: kind {spec.kind} is not there yet")


def local_options(spec: ClusterSpec) -> dict[str, Any]:
    """What distributed's LocalCluster is given."""
    threads = spec.options.get("threads_per_worker", 1)
    return {
        "memory_limit": 0,
        "dashboard_address": "127.0.0.1:0",
        "preload": [PRELOAD, "wsi_magnet.runtime.quiet"],
        **({"resources": {"GPU": threads}} if spec.gpu else {}),
        **spec.options,
        "threads_per_worker": threads,
        "n_workers": spec.at_first,
        "processes": True,
    }


def _local(spec: ClusterSpec) -> Any:
    _known(spec, LocalCluster)
    try:
        with children_deaf():
            return LocalCluster(**local_options(spec))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{spec.path}: options: {str(error).splitlines()[0]}") from error


def _known(spec: ClusterSpec, cls: type) -> None:
    """Workers get what the cluster's class does not know; what they do not know either shall not be their traceback."""
    takers = (cls, LocalCluster, Nanny, Worker, Server)
    names = {name for taker in takers for name in signature(taker).parameters}
    if unknown := sorted(spec.options.keys() - names):
        raise ConfigError(f"{spec.path}: options: {cls.__name__} does not know {', '.join(unknown)}")


def _adapt(cluster: Any, spec: ClusterSpec) -> None:
    assert spec.adapt
    bounds = {"minimum": spec.adapt.minimum, "maximum": spec.adapt.maximum}
    if spec.kind in BATCH_KINDS:
        bounds = {f"{name}_jobs": count for name, count in bounds.items()}
    cluster.adapt(**bounds, interval=ADAPT_EVERY, wait_count=IDLE_LOOKS)
