"""Start an executor: on threads of this process, processes of this machine, a running Dask cluster, or a new one."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial

from distributed import Client, LocalCluster

from wsi_magnet.config import Execution
from wsi_magnet.errors import ClusterError, ConfigError
from wsi_magnet.runtime.clusters.cluster import RunningCluster
from wsi_magnet.runtime.clusters.local import NannyRestarter, start_local
from wsi_magnet.runtime.clusters.spec import read_cluster
from wsi_magnet.runtime.connection import GONE, connect_to
from wsi_magnet.runtime.dask_executor import GPU_RESOURCE, DaskExecutor, has_gpu_workers
from wsi_magnet.runtime.process_setup import PRELOAD, SHARES_STDERR, dask_settings, mute_dask_if_ours
from wsi_magnet.text import counted

_CONNECT_S = 30.0


def start_executor(execution: Execution, threads: int) -> DaskExecutor:
    """The executor that `execution` asks for.

    threads: of this machine, for workers that are started here. Raises ClusterError for a scheduler that does not
    answer or has no workers, and for a cluster that cannot be made.
    """
    mute_dask_if_ours()
    with ExitStack() as settings:
        settings.enter_context(dask_settings())
        executor = _started(execution, threads)
        executor.call_on_close(settings.pop_all().close)
        return executor


def _started(execution: Execution, threads: int) -> DaskExecutor:
    if execution.scheduler is not None:
        return _remote(execution.scheduler, execution.device)
    if execution.cluster is not None:
        return _own_cluster(execution.cluster, execution.device)
    if execution.workers is not None:
        return _processes(execution, execution.workers, threads)
    return _threads(execution, threads)


def _threads(execution: Execution, threads: int) -> DaskExecutor:
    cluster = start_local(
        n_workers=1,
        threads_per_worker=threads,
        processes=False,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": execution.dashboard},  # its import of bokeh takes over a second
        silence_logs=logging.CRITICAL,  # of Dask's handlers, and only while the cluster is there
    )
    return _local(cluster, f"{counted(threads, 'thread')} of this process", execution, wants_gpu=False)


def _processes(execution: Execution, workers: int, threads: int) -> DaskExecutor:
    each = max(1, threads // workers)
    gpu = {GPU_RESOURCE: each} if execution.device.startswith("cuda") else None
    cluster = start_local(
        n_workers=workers,
        threads_per_worker=each,
        processes=True,
        memory_limit="auto",
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": execution.dashboard},
        resources=gpu,
        silence_logs=logging.CRITICAL,
        preload=[PRELOAD],
        env=SHARES_STDERR,
    )
    many = counted(workers, "worker process", "worker processes")
    description = f"{many} of this machine, {counted(each, 'thread')}{' each' if workers > 1 else ''}"
    return _local(cluster, description, execution, wants_gpu=gpu is not None)


def _local(cluster: LocalCluster, description: str, execution: Execution, *, wants_gpu: bool) -> DaskExecutor:
    try:
        return DaskExecutor(
            partial(Client, cluster, set_as_default=False),
            description=description,
            device=execution.device,
            dashboard=_local_dashboard(cluster) if execution.dashboard else None,
            wants_gpu=wants_gpu,
            on_poll=NannyRestarter(cluster),
            on_close=cluster.close,
        )
    except BaseException:
        cluster.close()
        raise


def _remote(address: str, device: str) -> DaskExecutor:
    connect = partial(connect_to, address, _CONNECT_S)
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
        raise ConfigError(f"device {device}: {spec.path} has no gpu: true", arguments=("device",))
    cluster = RunningCluster(spec)
    try:
        cluster.wait()
        return DaskExecutor(
            partial(Client, cluster.cluster, set_as_default=False),
            description=cluster.describe(),
            device=device,
            dashboard=cluster.dashboard,
            wants_gpu=spec.gpu and device != "cpu",
            on_poll=NannyRestarter(cluster.cluster) if isinstance(cluster.cluster, LocalCluster) else lambda: None,
            workers_pending=cluster.workers_pending,
            on_close=cluster.close,
        )
    except BaseException:
        cluster.close()
        raise


def _local_dashboard(cluster: LocalCluster) -> str | None:
    # Dask's own link names the machine's outer address, where a dashboard that listens on the inner one is not found.
    port = cluster.scheduler_info.get("services", {}).get("dashboard")
    return f"http://127.0.0.1:{port}/status" if port else None
