"""The clusters that the documents show: each file is read, and makes what its system takes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Context

from wsi_magnet.cli import main
from wsi_magnet.runtime.clusters.cluster import plan, show
from wsi_magnet.runtime.clusters.spec import BATCH_KINDS, ClusterSpec, read_cluster
from wsi_magnet.runtime.process_setup import PRELOAD, WORKER_ENVIRONMENT

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
FILES = sorted(path for path in PIPELINES.glob("*/*.yaml") if path.read_text().lstrip("#").find("\nkind: ") >= 0)
CLUSTERS = [path for path in FILES if "apiVersion" not in path.read_text()]
RESOURCES = [path for path in sorted((PIPELINES / "kubernetes").glob("*.yaml")) if path not in CLUSTERS]
SCRIPTS = sorted((PIPELINES / "slurm").glob("*.sbatch"))
GPU_SCRIPTS = sorted((PIPELINES / "gpus").glob("*.sh"))

SAID = {
    "slurm/cluster": ["#SBATCH --cpus-per-task=8", "#SBATCH --mem=15G", "#SBATCH -t 04:00:00", "--nthreads 8"],
    "slurm/gpu": ["#SBATCH --gres=gpu:1", "--nworkers 4", "--nthreads 4", "--resources GPU=4"],
    "batch/pbs": ["#PBS -l select=1:ncpus=8:mem=16gb", "#PBS -l walltime=04:00:00", "--lifetime 13950s"],
    "batch/lsf": ["#BSUB -n 8", "#BSUB -W 04:00", "--lifetime 13950s"],
    "batch/sge": ["#$ -pe smp 8", "#$ -l h_rt=04:00:00", "#$ -l mem_free=2G"],
    "batch/htcondor": ["should_transfer_files = NO", "MY.DaskWorkerCores = 8", "MY.DaskWorkerDisk = 2000000000"],
}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_every_file_is_looked_at() -> None:
    assert {name_of(path) for path in CLUSTERS} == set(SAID)
    assert {path.stem for path in RESOURCES} == {"batch", "dask-cluster", "install", "run", "storage"}


@pytest.mark.parametrize("path", CLUSTERS, ids=name_of)
def test_it_makes_what_its_system_takes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = read_cluster(path)
    text = show(spec)
    for words in SAID[name_of(path)]:
        assert words in text
    if spec.kind in BATCH_KINDS and spec.kind != "htcondor":
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert spec.size in plan(spec)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", CLUSTERS, ids=name_of)
def test_its_suggestions_can_be_used_as_well(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    lines = [
        line.replace("  # ", "  ", 1) if line.startswith("  # ") else line for line in path.read_text().split("\n")
    ]
    other = tmp_path / "cluster.yaml"
    other.write_text("\n".join(lines))
    spec: ClusterSpec = read_cluster(other)
    if spec.kind in BATCH_KINDS:
        monkeypatch.chdir(tmp_path)
    show(spec)


@pytest.mark.parametrize("path", [*SCRIPTS, *GPU_SCRIPTS], ids=lambda path: path.name)
def test_the_scripts_are_whole(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)


STAND_IN = """#!/bin/bash
trap 'exit 130' TERM
echo "$(basename "$0")" "$@" >>"$SAID"
[ "$(basename "$0")" = scontrol ] && exit
[ -n "$ENDS" ] && exit "$ENDS"
while :; do sleep 0.05; done
"""


def has_handler(pid: int, number: signal.Signals) -> bool:
    """True once a process has set a trap for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Runs a script of Slurm's with what it calls written down: the status that it ends with, and the calls."""
    for name in ("wsi-magnet", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    said = tmp_path / "said"

    def run(script: Path, *words: str, ends: str = "", hears: signal.Signals | None = None) -> tuple[int, list[str]]:
        path = f"{tmp_path}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "SAID": str(said), "ENDS": ends, "SLURM_JOB_ID": "7"}
        process = subprocess.Popen(["bash", script, *words], env=env)
        if hears:
            while not (said.exists() and has_handler(process.pid, hears)):
                time.sleep(0.02)
            process.send_signal(hears)
        return process.wait(timeout=90), said.read_text().splitlines()

    return run


@pytest.mark.parametrize(
    ("script", "words", "called"),
    [
        (SCRIPTS[0], ["a b/**/*.svs", "more", "-o", "out"], "batch a b/**/*.svs more -o out --cluster cluster.yaml"),
        (SCRIPTS[1], ["a.svs", "out", "--tile", "512"], "run a.svs --output out --cluster cluster.yaml --tile 512"),
    ],
    ids=["batch", "run"],
)
@pytest.mark.parametrize(
    ("how", "status", "requeued"),
    [
        ({"hears": signal.SIGUSR1}, 130, True),
        ({"hears": signal.SIGTERM}, 130, False),
        ({"ends": "1"}, 1, False),
        ({"ends": "0"}, 0, False),
    ],
    ids=["time is up", "scancel", "failed", "done"],
)
def test_a_job_is_queued_again_when_its_time_is_up_and_only_then(
    job: Callable[..., tuple[int, list[str]]],
    script: Path,
    words: list[str],
    called: str,
    how: dict[str, Any],
    status: int,
    requeued: bool,
) -> None:
    ended, calls = job(script, *words, **how)
    assert ended == status
    assert calls == [f"wsi-magnet {called}", *(["scontrol requeue 7"] if requeued else [])]


@pytest.mark.parametrize("script", GPU_SCRIPTS, ids=lambda path: path.stem)
def test_gpu_workers_are_set_up_as_every_worker(script: Path) -> None:
    text = script.read_text()
    assert f"--preload {PRELOAD} &" in text
    assert '--resources "GPU=$threads"' in text
    assert '--nthreads "$threads"' in text
    assert "--scheduler tcp://127.0.0.1:8786" in text
    assert "dask scheduler --host 127.0.0.1 --port 8786 &" in text


def test_the_resources_of_kubernetes_fit_together() -> None:
    documents = [one for path in RESOURCES for one in yaml.safe_load_all(path.read_text())]
    by_kind: dict[str, list[Any]] = {}
    for one in documents:
        by_kind.setdefault(one["kind"], []).append(one)
    (claim,), (cluster,) = by_kind["PersistentVolumeClaim"], by_kind["DaskCluster"]
    pods = [one["spec"]["template"]["spec"] for one in by_kind["Job"]]
    pods += [cluster["spec"][part]["spec"] for part in ("worker", "scheduler")]
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
            assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "workers on many nodes write one result"


def kubernetes(name: str) -> Any:
    return yaml.safe_load((PIPELINES / "kubernetes" / f"{name}.yaml").read_text())


def test_workers_of_kubernetes_are_set_up_as_every_worker() -> None:
    (worker,) = kubernetes("dask-cluster")["spec"]["worker"]["spec"]["containers"]
    assert f"--preload={PRELOAD}" in worker["args"]
    assert "--nthreads=8" in worker["args"]
    assert worker["resources"]["requests"]["cpu"] == "8"
    assert {one["name"]: one["value"] for one in worker["env"]} == WORKER_ENVIRONMENT


@pytest.mark.parametrize("name", ["run", "batch"])
def test_runs_of_kubernetes_find_the_scheduler(name: str) -> None:
    """The operator names a cluster's service NAME-scheduler."""
    cluster = kubernetes("dask-cluster")
    service = cluster["spec"]["scheduler"]["service"]
    (port,) = [one["port"] for one in service["ports"] if one["name"] == "tcp-comm"]
    (container,) = kubernetes(name)["spec"]["template"]["spec"]["containers"]
    command, *words = container["args"]
    assert service["selector"]["dask.org/cluster-name"] == cluster["metadata"]["name"]
    assert words[-2:] == ["--scheduler", f"tcp://{cluster['metadata']['name']}-scheduler:{port}"]
    main.main.get_command(Context(main.main), command).make_context(command, words)  # type: ignore[union-attr]
