"""Clusters of a run: started, adapting and closed."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import pytest

from wsi_magnet.config import Execution
from wsi_magnet.errors import ConfigError
from wsi_magnet.runtime.clusters.local import local_options
from wsi_magnet.runtime.clusters.spec import parse_cluster
from wsi_magnet.runtime.dask_executor import DaskExecutor
from wsi_magnet.runtime.start import start_executor


def executor_of(folder: Path, text: str, device: str = "cpu") -> DaskExecutor:
    path = folder / "own.yaml"
    path.write_text(text)
    return start_executor(Execution(device, cluster=str(path)), threads=2)


def slow_square(number: int) -> int:
    sleep(0.01)
    return number * number


def test_processes_of_this_machine(tmp_path: Path) -> None:
    executor = executor_of(tmp_path, "kind: local\nworkers: 1\noptions: {threads_per_worker: 2}\n")
    try:
        assert executor.description == "1 of 1 workers of own.yaml (local), 2 threads"
        assert sorted(executor.map(slow_square, range(20))) == [n * n for n in range(20)]
    finally:
        executor.close()


@pytest.mark.slow
def test_workers_that_adapt_begin_with_one(tmp_path: Path) -> None:
    executor = executor_of(tmp_path, "kind: local\nadapt: {minimum: 0, maximum: 2}\noptions: {threads_per_worker: 1}\n")
    try:
        assert executor.description == "1 of 0 to 2 workers of own.yaml (local), 1 thread"
        assert sorted(executor.map(slow_square, range(20))) == [n * n for n in range(20)]
    finally:
        executor.close()


def test_the_tiles_of_a_gpu_cluster_go_to_its_gpus(tmp_path: Path) -> None:
    spec = parse_cluster({"kind": "local", "workers": 1, "gpu": True, "options": {"threads_per_worker": 4}}, tmp_path)
    assert local_options(spec)["resources"] == {"GPU": 4}


def test_a_gpu_that_the_file_does_not_speak_of(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"device cuda: .*own\.yaml has no gpu: true"):
        executor_of(tmp_path, "kind: local\nworkers: 1\n", device="cuda")


def test_an_option_that_the_class_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own\.yaml: options: LocalCluster does not know walltime"):
        executor_of(tmp_path, 'kind: local\nworkers: 1\noptions: {walltime: "01:00:00"}\n')
