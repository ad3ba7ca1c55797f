"""Clusters of this machine: worker processes, or with dask-cuda one for each of its GPUs."""

from __future__ import annotations

from inspect import signature
from typing import Any

from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed import LocalCluster, Nanny, Worker
from distributed.core import Server

from wsi_magnet.errors import ClusterError, ConfigError
from wsi_magnet.runtime.clusters.spec import ClusterSpec
from wsi_magnet.runtime.signals import children_deaf
from wsi_magnet.runtime.worker_settings import PRELOAD


def local_cluster(spec: ClusterSpec) -> Any:
    """Worker processes of this machine. Raises ConfigError for options that cannot be used, ClusterError for no GPU."""
    cls = _cuda_class(spec) if spec.kind == "cuda" else LocalCluster
    _check_names(spec, cls)
    try:
        with children_deaf():
            return cls(**local_options(spec))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{spec.path}: options: {str(error).splitlines()[0]}") from error
    except Exception as error:  # NVIDIA's libraries have their own
        raise ClusterError(f"{spec.path}: {cls.__name__} finds no GPU to work with ({error})") from error


def local_options(spec: ClusterSpec) -> dict[str, Any]:
    """What distributed's LocalCluster or dask-cuda's LocalCUDACluster is given.

    No memory is watched: it is planned, and what lies on a GPU is not Dask's. Half of a GPU worker's threads wait for
    its GPU. Raises ConfigError for threads or memory that are none.
    """
    threads = spec.options.get("threads_per_worker", _threads(spec))
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(
            f"{spec.path}: options: threads_per_worker is {threads!r:.60}, not a whole number of at least 1"
        )
    _check_memory(spec)
    return {
        "memory_limit": 0,
        **({"device_memory_limit": None, "memory_limit": None} if spec.kind == "cuda" else {}),
        "dashboard_address": "127.0.0.1:0",
        "preload": [PRELOAD, "wsi_magnet.runtime.quiet"],
        **({"resources": {"GPU": threads}} if spec.gpu else {}),
        **spec.options,
        "threads_per_worker": threads,
        "n_workers": spec.at_first,
        "processes": True,
    }


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


def _cuda_class(spec: ClusterSpec) -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ClusterError(
            f"{spec.path}: kind cuda needs dask-cuda: pip install '.[cuda]' in wsi-magnet's checkout, with the "
            "release of dask that it asks for, so into an environment of its own"
        ) from error
    return LocalCUDACluster


def _check_names(spec: ClusterSpec, cls: type) -> None:
    """Workers get what the cluster's class does not know; what they do not know either shall not be their traceback."""
    names = {name for taker in (cls, LocalCluster, Nanny, Worker, Server) for name in signature(taker).parameters}
    if unknown := sorted(spec.options.keys() - names):
        raise ConfigError(f"{spec.path}: options: {cls.__name__} does not know {', '.join(unknown)}")
