"""What dask-cuda is given, held against the signature of its class; the class itself needs a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from distributed import LocalCluster

from wsi_magnet.errors import ClusterError, ConfigError
from wsi_magnet.runtime.clusters.kinds import local_cluster, local_options
from wsi_magnet.runtime.clusters.spec import ClusterSpec, parse_cluster


class LocalCUDACluster(LocalCluster):
    """Stands in for dask-cuda 26.10's: its signature, and that it is a LocalCluster to which it hands on the rest."""

    def __init__(
        self,
        CUDA_VISIBLE_DEVICES: Any = None,
        n_workers: Any = None,
        threads_per_worker: int = 1,
        memory_limit: Any = "auto",
        device_memory_limit: Any = "default",
        enable_cudf_spill: bool = False,
        cudf_spill_stats: int = 0,
        local_directory: Any = None,
        protocol: Any = None,
        enable_tcp_over_ucx: Any = None,
        enable_infiniband: Any = None,
        enable_nvlink: Any = None,
        enable_rdmacm: Any = None,
        rmm_pool_size: Any = None,
        rmm_maximum_pool_size: Any = None,
        rmm_managed_memory: bool = False,
        rmm_async: bool = False,
        rmm_allocator_external_lib_list: Any = None,
        rmm_release_threshold: Any = None,
        rmm_log_directory: Any = None,
        rmm_track_allocations: bool = False,
        log_spilling: bool = False,
        pre_import: Any = None,
        **kwargs: Any,
    ) -> None:
        if CUDA_VISIBLE_DEVICES == "none":
            raise OSError("NVML Shared Library Not Found")
        self.device_memory_limit = device_memory_limit
        assert kwargs.pop("processes")
        super().__init__(  # type: ignore[no-untyped-call]
            n_workers=n_workers,
            threads_per_worker=threads_per_worker,
            memory_limit=memory_limit,
            local_directory=local_directory,
            processes=True,
            **kwargs,
        )


@pytest.fixture
def dask_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, also where the real one is installed."""
    module: Any = ModuleType("dask_cuda")
    module.LocalCUDACluster = LocalCUDACluster
    monkeypatch.setitem(sys.modules, "dask_cuda", module)


def spec(**options: Any) -> ClusterSpec:
    return parse_cluster({"kind": "cuda", "workers": 1, "options": options}, Path("gpus.yaml"))


@pytest.mark.usefixtures("dask_cuda")
def test_a_worker_a_gpu_that_declares_it() -> None:
    with local_cluster(spec(threads_per_worker=2)) as cluster:
        (worker,) = cluster.scheduler_info["workers"].values()
        assert worker["resources"] == {"GPU": 2}
        assert worker["nthreads"] == 2
        assert cluster.device_memory_limit is None, "what lies on a GPU is not Dask's"


@pytest.mark.usefixtures("dask_cuda")
def test_options_are_known_before_a_worker_is_started() -> None:
    with pytest.raises(ConfigError, match=r"gpus\.yaml: options: LocalCUDACluster does not know gpus"):
        local_cluster(spec(gpus=4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory_limit": "tons"}, "memory_limit is 'tons', not bytes of a worker"),
        ({"memory_limit": [1]}, r"memory_limit is \[1\], not bytes of a worker"),
        ({"threads_per_worker": "lots"}, "threads_per_worker is 'lots', not a whole number"),
        ({"threads_per_worker": 0}, "threads_per_worker is 0, not a whole number"),
    ],
)
def test_threads_and_memory_are_numbers(options: dict[str, Any], said: str) -> None:
    local = parse_cluster({"kind": "local", "workers": 1, "options": options}, Path("local.yaml"))
    with pytest.raises(ConfigError, match=f"local.yaml: options: {said}"):
        local_options(local)


def test_memory_is_spelt_as_dask_spells_it() -> None:
    for limit in ("auto", "2GB", 0, 1e9, None):
        local = parse_cluster({"kind": "local", "workers": 1, "options": {"memory_limit": limit}}, Path("local.yaml"))
        assert local_options(local)["memory_limit"] == limit


@pytest.mark.usefixtures("dask_cuda")
def test_a_machine_without_a_gpu() -> None:
    with pytest.raises(
        ClusterError, match=r"LocalCUDACluster finds no GPU to work with \(NVML Shared Library Not Found\)"
    ):
        local_cluster(spec(CUDA_VISIBLE_DEVICES="none"))


def test_without_dask_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with pytest.raises(ClusterError, match=r"needs dask-cuda: pip install '\.\[cuda\]'"):
        local_cluster(spec())


def test_the_real_class_takes_what_it_is_given() -> None:
    real = pytest.importorskip("dask_cuda", reason="dask-cuda is not installed").LocalCUDACluster
    from inspect import signature

    named = {"n_workers", "threads_per_worker", "memory_limit", "device_memory_limit"}
    assert named <= set(signature(real).parameters)
    others = set(local_options(spec())) - set(signature(real).parameters)
    assert others <= {"dashboard_address", "preload", "resources", "processes"}
    assert issubclass(real, LocalCluster)
