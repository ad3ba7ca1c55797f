"""Worker processes of this machine."""

from __future__ import annotations

import logging
import threading
import time
from inspect import signature
from typing import Any

from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed import LocalCluster, Nanny, Status, Worker
from distributed.core import Server

from wsi_magnet.errors import ConfigError
from wsi_magnet.runtime.clusters.spec import ClusterSpec
from wsi_magnet.runtime.process_setup import PRELOAD, SHARES_STDERR, unguarded_main_is_reported
from wsi_magnet.runtime.signals import children_ignore_ctrl_c

RESTART_EVERY_S = 5.0


def local_cluster(spec: ClusterSpec) -> LocalCluster:
    """Start the first worker processes. Raises ConfigError for options that cannot be used."""
    _check_names(spec)
    try:
        return start_local(**local_options(spec))
    except ConfigError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{spec.path}: options: {str(error).splitlines()[0]}") from error


def start_local(**options: Any) -> LocalCluster:
    """A LocalCluster, or none where a signal came while it was started: one that is left half started is closed by Dask
    when the program ends, which prints tracebacks.
    """
    cluster: LocalCluster | None = None
    try:
        with children_ignore_ctrl_c(), unguarded_main_is_reported():
            cluster = LocalCluster(**options)
        return cluster
    except BaseException:
        if cluster is not None:
            cluster.close()
        raise


def local_options(spec: ClusterSpec) -> dict[str, Any]:
    """Arguments of distributed's LocalCluster.

    Memory is not watched: it is planned. Half of a GPU worker's threads wait for its GPU. Raises ConfigError for
    unusable threads or memory.
    """
    threads = spec.options.get("threads_per_worker", _threads(spec))
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(
            f"{spec.path}: options: threads_per_worker is {threads!r:.60}, not a whole number of at least 1"
        )
    _check_memory(spec)
    return {
        "memory_limit": 0,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
        "preload": [PRELOAD],
        **({"resources": {"GPU": threads}} if spec.gpu else {}),
        **spec.options,
        "env": {**SHARES_STDERR, **spec.options.get("env", {})},
        "threads_per_worker": threads,
        "n_workers": spec.at_first,
        "processes": True,
    }


class NannyRestarter:
    """Starts nannies again that ended while they were starting a worker, which Dask leaves dead.

    Called now and then; safe to call from several threads.
    """

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._checked = time.monotonic()

    def __call__(self) -> None:
        """Replace each nanny that has ended; a running nanny itself restarts a worker that dies at work."""
        if time.monotonic() - self._checked < RESTART_EVERY_S or not self._lock.acquire(blocking=False):
            return
        try:
            self._checked = time.monotonic()
            loop = self._cluster.loop
            if loop is not None and self._cluster.status == Status.running and self._ended():
                loop.add_callback(self._restart)
        finally:
            self._lock.release()

    def _ended(self) -> list[object]:
        return [
            name for name, one in list(self._cluster.workers.items()) if one.status in (Status.closed, Status.failed)
        ]

    async def _restart(self) -> None:
        for name in self._ended():
            self._cluster.workers.pop(name, None)
        await self._cluster  # starts the workers of its specification that are not there


def _check_memory(spec: ClusterSpec) -> None:
    limit = spec.options.get("memory_limit")
    try:
        if limit not in (None, "auto"):
            parse_bytes(limit)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{spec.path}: options: memory_limit is {limit!r:.60}, not bytes of a worker, for example 16GB"
        ) from error


def _threads(spec: ClusterSpec) -> int:
    share = CPU_COUNT / (spec.adapt.maximum if spec.adapt else spec.at_first)
    return max(2, int(2 * share)) if spec.gpu else max(1, int(share))


def _check_names(spec: ClusterSpec) -> None:
    """Refuse options that neither the cluster nor its workers have: a worker would answer them with a traceback."""
    names = {name for taker in (LocalCluster, Nanny, Worker, Server) for name in signature(taker).parameters}
    if unknown := sorted(spec.options.keys() - names):
        raise ConfigError(f"{spec.path}: options: LocalCluster does not know {', '.join(unknown)}")
    if not isinstance(spec.options.get("env", {}), dict):
        raise ConfigError(f"{spec.path}: options: env is {spec.options['env']!r:.60}, not names and values")
