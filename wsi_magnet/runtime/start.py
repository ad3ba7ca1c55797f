"""Where Dask's workers come from: threads of this process, processes of this machine, or any running cluster."""

from __future__ import annotations

from functools import partial

import dask
from distributed import Client, LocalCluster

from wsi_magnet.config import Execution
from wsi_magnet.errors import ClusterError, ConfigError
from wsi_magnet.runtime.clusters.cluster import RunningCluster
from wsi_magnet.runtime.clusters.revival import Revival
from wsi_magnet.runtime.clusters.spec import read_cluster
from wsi_magnet.runtime.connection import GONE
from wsi_magnet.runtime.dask_executor import GPU_RESOURCE, DaskExecutor, has_gpu_workers
from wsi_magnet.runtime.quiet import quieten
from wsi_magnet.runtime.reach import connect_to
from wsi_magnet.runtime.signals import children_deaf
from wsi_magnet.text import counted

_PATIENCE_S = 30.0

_SETTINGS = {
    "distributed": {
        # Tiles take seconds and hold the GIL while they copy: the default of 3 s warns about nothing.
        "admin": {"tick": {"limit": "60s"}},
        # Memory is planned, not watched: a worker that spills or pauses at 60 % would only make a run slower. At 95 %
        # of what it may have, its nanny still ends it.
        "worker": {"memory": {"target": False, "spill": False, "pause": False}},
        # A worker that says nothing for so long is stopped or cut off: its tiles go to others. Five minutes are Dask's.
        "scheduler": {"worker-ttl": "2 minutes"},
        # A process that is late in coming back, on a machine full of work, is not given up for it.
        "deploy": {"lost-worker-timeout": "1 hour"},
    }
}
"""Ours in the place of Dask's defaults; what users set themselves, in files or DASK_ variables, stands."""


def start_executor(execution: Execution, threads: int) -> DaskExecutor:
    """The executor that `execution` asks for.

    threads: of this machine, for workers that are started here. Raises ClusterError for a scheduler that does not
    answer or has no workers, and for a cluster that cannot be made.
    """
    quieten()
    dask.config.update_defaults(_SETTINGS)
    if execution.scheduler is not None:
        return _remote(execution.scheduler, execution.device)
    if execution.cluster is not None:
        return _own_cluster(execution.cluster, execution.device)
    if execution.workers is not None:
        return _processes(execution.workers, execution.device, threads)
    return _threads(execution.device, threads)


def _threads(device: str, threads: int) -> DaskExecutor:
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=threads, processes=False, memory_limit=0, dashboard_address="127.0.0.1:0"
    )
    return _local(cluster, f"{counted(threads, 'thread')} of this process", device, wants_gpu=False)


def _processes(workers: int, device: str, threads: int) -> DaskExecutor:
    each = max(1, threads // workers)
    gpu = {GPU_RESOURCE: each} if device.startswith("cuda") else None
    with children_deaf():
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=each,
            processes=True,
            memory_limit="auto",
            dashboard_address="127.0.0.1:0",
            resources=gpu,
            preload=["wsi_magnet.runtime.worker_process", "wsi_magnet.runtime.quiet"],
        )
    many = counted(workers, "worker process", "worker processes")
    description = f"{many} of this machine, {counted(each, 'thread')}{' each' if workers > 1 else ''}"
    return _local(cluster, description, device, wants_gpu=gpu is not None)


def _local(cluster: LocalCluster, description: str, device: str, *, wants_gpu: bool) -> DaskExecutor:
    return DaskExecutor(
        partial(Client, cluster, set_as_default=False),
        description=description,
        device=device,
        dashboard=_local_dashboard(cluster),
        wants_gpu=wants_gpu,
        tend=Revival(cluster),
        stop=cluster.close,
    )


def _remote(address: str, device: str) -> DaskExecutor:
    connect = partial(connect_to, address, _PATIENCE_S)
    try:
        client = connect()
    except GONE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({reason}); start one with `dask scheduler`"
        ) from error
    with client:
        workers, has_gpu, dashboard = client.nthreads(), has_gpu_workers(client), client.dashboard_link
    if not workers:
        raise ClusterError(f"the scheduler at {address} has no workers; start some with `dask worker {address}`")
    if device.startswith("cuda") and not has_gpu:
        raise ClusterError(
            f"no worker of {address} declares a GPU; start them with `dask worker {address} --resources GPU=1`"
        )
    description = f"{counted(len(workers), 'worker')} of {address}, {counted(sum(workers.values()), 'thread')}"
    wants_gpu = device.startswith(("auto", "cuda"))
    return DaskExecutor(
        connect, description=description, device=device, dashboard=dashboard or None, wants_gpu=wants_gpu
    )


def _own_cluster(path: str, device: str) -> DaskExecutor:
    spec = read_cluster(path)
    if device.startswith("cuda") and not spec.gpu:
        raise ConfigError(f"--device {device}: {spec.path} does not say gpu: true")
    cluster = RunningCluster(spec)
    try:
        cluster.wait()
        return DaskExecutor(
            partial(Client, cluster.cluster, set_as_default=False),
            description=cluster.describe(),
            device=device,
            dashboard=cluster.dashboard,
            wants_gpu=spec.gpu and device != "cpu",
            tend=Revival(cluster.cluster) if isinstance(cluster.cluster, LocalCluster) else None,
            coming=cluster.coming,
            stop=cluster.close,
        )
    except BaseException:
        cluster.close()
        raise


def _local_dashboard(cluster: LocalCluster) -> str | None:
    # Dask's own link names the machine's outer address, where a dashboard that listens on the inner one is not found.
    port = cluster.scheduler_info.get("services", {}).get("dashboard")
    return f"http://127.0.0.1:{port}/status" if port else None
