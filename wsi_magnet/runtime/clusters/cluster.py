"""A cluster that a run makes for itself, of any kind: start it, wait for workers, watch it, and close it."""

from __future__ import annotations

import logging
import time
from typing import Any

import yaml

from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.clusters.batch import batch_cluster, job_options, job_script, job_shape
from wsi_magnet.runtime.clusters.local import local_cluster, local_options
from wsi_magnet.runtime.clusters.resubmit import JobResubmitter
from wsi_magnet.runtime.clusters.spec import BATCH_KINDS, ClusterSpec
from wsi_magnet.text import counted

logger = logging.getLogger(__name__)

ADAPT_EVERY, IDLE_CHECKS = "2s", 30
"""Time between two checks whether there is work for more workers, and the checks in a row that must find a worker idle
before it is released: a job that took an hour to get is kept between two scales."""

NOTIFY_EVERY_S = 300.0
"""Time between two notes about the queue while a run waits for its first worker."""

_CHECK_S = 0.5


class RunningCluster:
    """A cluster that belongs to this run."""

    def __init__(self, spec: ClusterSpec) -> None:
        """Request the first workers. Raises ConfigError or ClusterError."""
        self.spec = spec
        self.cluster = make_cluster(spec)
        self._resubmitter = JobResubmitter(self.cluster, spec) if spec.kind in BATCH_KINDS else None

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's dashboard."""
        link: str | None = self.cluster.dashboard_link
        return link

    def wait(self) -> None:
        """Wait for the first worker; then let the cluster adapt if the file has `adapt`.

        Raises ClusterError if no worker comes within `patience_minutes`, or none can come.
        """
        started = notified = time.monotonic()
        while not self.workers():
            self.workers_pending()
            now = time.monotonic()
            if now - started > self.spec.patience_minutes * 60:
                raise ClusterError(
                    f"{self.spec.path}: no worker came within {self.spec.patience_minutes:g} minutes "
                    f"({self._queue()}); ask for less, or wait longer with patience_minutes"
                )
            if now - notified > NOTIFY_EVERY_S:
                notified = now
                logger.warning("waiting for the first worker for %.0f minutes: %s", (now - started) / 60, self._queue())
            time.sleep(_CHECK_S)
        if self.spec.adapt:
            _adapt(self.cluster, self.spec)

    def workers(self) -> dict[str, int]:
        """Threads of each worker that is there, by its address."""
        workers = self.cluster.scheduler_info["workers"]
        return {address: int(worker["nthreads"]) for address, worker in workers.items()}

    def workers_pending(self) -> bool:
        """True if workers are expected though none is there. Raises ClusterError if it is known that none comes."""
        if self._resubmitter:
            return self._resubmitter.workers_pending()
        return self.spec.adapt is not None  # a nanny restarts its worker within seconds, or never

    def close(self) -> None:
        """Stop all workers, and cancel the jobs that are still queued."""
        if self._resubmitter:
            self._resubmitter.stop()
        self.cluster.close()

    def describe(self) -> str:
        """The workers that are there, of how many, in words."""
        workers = self.workers()
        threads = counted(sum(workers.values()), "thread")
        return f"{len(workers)} of {self.spec.size} workers of {self.spec.path.name} ({self.spec.kind}), {threads}"

    def _queue(self) -> str:
        return self._resubmitter.queue() if self._resubmitter else "see its workers' output"


def make_cluster(spec: ClusterSpec) -> Any:
    """A Dask cluster of the kind in `spec`, its first workers requested."""
    return batch_cluster(spec) if spec.kind in BATCH_KINDS else local_cluster(spec)


def show(spec: ClusterSpec) -> str:
    """A job's script, or the arguments of Dask's LocalCluster; nothing is started."""
    if spec.kind in BATCH_KINDS:
        return job_script(spec)
    return yaml.safe_dump(local_options(spec), sort_keys=False, width=120)


def plan(spec: ClusterSpec) -> str:
    """Number, kind and lifetime of the workers, in words; nothing is started."""
    bounds = f"{spec.at_first} at first, then {spec.size} as there is work" if spec.adapt else f"{spec.size}"
    units = f"jobs of {spec.kind}" if spec.kind in BATCH_KINDS else "processes of this machine"
    lines = [f"{units}: {bounds}{', each with a GPU' if spec.gpu else ''}"]
    if spec.kind in BATCH_KINDS:
        options = job_options(spec)
        lines.append(f"each: {job_shape(spec)}")
        lines.append(f"output of the jobs: {options['log_directory']}")
    lines.append(f"the first worker may take {spec.patience_minutes:g} minutes")
    return "\n".join(lines)


def _adapt(cluster: Any, spec: ClusterSpec) -> None:
    assert spec.adapt
    bounds = {"minimum": spec.adapt.minimum, "maximum": spec.adapt.maximum}
    if spec.kind in BATCH_KINDS:
        bounds = {f"{name}_jobs": count for name, count in bounds.items()}
    cluster.adapt(**bounds, interval=ADAPT_EVERY, wait_count=IDLE_CHECKS)
