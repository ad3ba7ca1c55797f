"""The clusters that the documents show: each file is read, and makes what its system takes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from wsi_magnet.runtime.cluster_spec import BATCH_KINDS, ClusterSpec, read_cluster
from wsi_magnet.runtime.clusters import plan, show

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
FILES = sorted(path for path in PIPELINES.glob("*/*.yaml") if path.read_text().lstrip("#").find("\nkind: ") >= 0)
CLUSTERS = [path for path in FILES if "apiVersion" not in path.read_text()]
RESOURCES = [path for path in sorted((PIPELINES / "kubernetes").glob("*.yaml")) if path not in CLUSTERS]

SAID = {
    "slurm/cluster": ["#SBATCH --cpus-per-task=8", "#SBATCH --mem=15G", "#SBATCH -t 04:00:00", "--nthreads 8"],
    "slurm/gpu": ["#SBATCH --gres=gpu:1", "--nworkers 4", "--nthreads 4", "--resources GPU=4"],
    "batch/pbs": ["#PBS -l select=1:ncpus=8:mem=16gb", "#PBS -l walltime=04:00:00", "--lifetime 13950s"],
    "batch/lsf": ["#BSUB -n 8", "#BSUB -W 04:00", "--lifetime 13950s"],
    "batch/sge": ["#$ -pe smp 8", "#$ -l h_rt=04:00:00", "#$ -l mem_free=2G"],
    "batch/htcondor": ["should_transfer_files = NO", "MY.DaskWorkerCores = 8", "MY.DaskWorkerDisk = 2000000000"],
    "kubernetes/cluster": ["kind: DaskCluster", "- wsi_magnet.runtime.worker_process", "claimName: wsi-magnet"],
    "gpus/dask-cuda": ["GPU: ", "n_workers: 4", "device_memory_limit: null"],
}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_every_file_is_looked_at() -> None:
    assert {name_of(path) for path in CLUSTERS} == set(SAID)
    assert {path.stem for path in RESOURCES} == {"access", "dask-cluster", "install", "run", "storage"}


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
    other.write_text("\n".join(lines).replace("dask-cluster.yaml", str(path.parent / "dask-cluster.yaml")))
    spec: ClusterSpec = read_cluster(other)
    if spec.kind in BATCH_KINDS:
        monkeypatch.chdir(tmp_path)
    show(spec)


@pytest.mark.parametrize(
    "path", [PIPELINES / "slurm/run.sbatch", PIPELINES / "gpus/start.sh"], ids=lambda path: path.name
)
def test_the_scripts_are_whole(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)


def test_the_resources_of_kubernetes_fit_together() -> None:
    documents = [one for path in RESOURCES for one in yaml.safe_load_all(path.read_text())]
    by_kind: dict[str, list[Any]] = {}
    for one in documents:
        by_kind.setdefault(one["kind"], []).append(one)
    (claim,), (account,) = by_kind["PersistentVolumeClaim"], by_kind["ServiceAccount"]
    pods = [one["spec"]["template"]["spec"] for one in by_kind["Job"]]
    pods += [
        part["spec"] for one in by_kind["DaskCluster"] for part in (one["spec"]["worker"], one["spec"]["scheduler"])
    ]
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
            assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    run = next(pod for pod in pods if "serviceAccountName" in pod)
    assert run["serviceAccountName"] == account["metadata"]["name"]
    assert run["containers"][0]["args"][-1] == "/cluster/cluster.yaml"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "workers on many nodes write one result"
    allowed = {
        (group, what)
        for rule in by_kind["Role"][0]["rules"]
        for group in rule["apiGroups"]
        for what in rule["resources"]
    }
    assert {
        ("kubernetes.dask.org", "daskclusters"),
        ("kubernetes.dask.org", "daskautoscalers"),
        ("", "pods"),
    } <= allowed
