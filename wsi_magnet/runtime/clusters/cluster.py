"""Clusters that a run makes for itself, of any kind, as one thing: started, waited for, watched, and let go of."""

from __future__ import annotations

import logging
import time
from typing import Any

import yaml

from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.clusters.batch import batch_cluster, job_options, job_script, job_shape
from wsi_magnet.runtime.clusters.kinds import local_cluster, local_options
from wsi_magnet.runtime.clusters.kubernetes import kubernetes_cluster, manifest
from wsi_magnet.runtime.clusters.resubmit import JobKeeper
from wsi_magnet.runtime.clusters.spec import BATCH_KINDS, ClusterSpec
from wsi_magnet.text import counted

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
        if self._keeper:
            return self._keeper.coming()
        # Kubernetes itself starts pods again; a nanny of this machine does so within seconds, or never.
        return self.spec.kind == "kubernetes" or self.spec.adapt is not None

    def close(self) -> None:
        """Let go of all workers, also of those that are still queued."""
        if self._keeper:
            self._keeper.stop()
        self.cluster.close()

    def describe(self) -> str:
        """For people: how many workers are there, of how many."""
        there = self.workers()
        threads = counted(sum(there.values()), "thread")
        return f"{len(there)} of {self.spec.size} workers of {self.spec.path.name} ({self.spec.kind}), {threads}"

    def _queue(self) -> str:
        if self._keeper:
            return self._keeper.queue()
        return "see `kubectl get pods`" if self.spec.kind == "kubernetes" else "see its workers' output"


def make_cluster(spec: ClusterSpec) -> Any:
    """A Dask cluster of the kind that is asked for, its first workers on their way."""
    if spec.kind in BATCH_KINDS:
        return batch_cluster(spec)
    if spec.kind == "kubernetes":
        return kubernetes_cluster(spec)
    return local_cluster(spec)


def show(spec: ClusterSpec) -> str:
    """What would be submitted: a job's script, a manifest, or what Dask's class is given. Nothing is started."""
    if spec.kind in BATCH_KINDS:
        return job_script(spec)
    shown = manifest(spec) if spec.kind == "kubernetes" else local_options(spec)
    return yaml.safe_dump(shown, sort_keys=False, width=120)


def plan(spec: ClusterSpec) -> str:
    """For people: how many workers there would be, of which kind, and until when."""
    bounds = f"{spec.at_first} at first, then {spec.size} as there is work" if spec.adapt else f"{spec.size}"
    lines = [f"{_UNITS.get(spec.kind, 'jobs of ' + spec.kind)}: {bounds}{', each with a GPU' if spec.gpu else ''}"]
    if spec.kind in BATCH_KINDS:
        options = job_options(spec)
        lines.append(f"each: {job_shape(spec)}")
        lines.append(f"output of the jobs: {options['log_directory']}")
    lines.append(f"the first worker may take {spec.patience_minutes:g} minutes")
    return "\n".join(lines)


_UNITS = {"local": "processes of this machine", "cuda": "GPUs of this machine", "kubernetes": "pods of Kubernetes"}


def _adapt(cluster: Any, spec: ClusterSpec) -> None:
    assert spec.adapt
    bounds = {"minimum": spec.adapt.minimum, "maximum": spec.adapt.maximum}
    if spec.kind in BATCH_KINDS:
        bounds = {f"{name}_jobs": count for name, count in bounds.items()}
    # The Dask operator has its own pace.
    pace = {} if spec.kind == "kubernetes" else {"interval": ADAPT_EVERY, "wait_count": IDLE_LOOKS}
    cluster.adapt(**bounds, **pace)
