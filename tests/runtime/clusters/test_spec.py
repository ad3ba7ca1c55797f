"""A cluster's YAML: its values, and errors that name the file, the key and the value."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_magnet.errors import ConfigError
from wsi_magnet.runtime.clusters.spec import Adapt, ClusterSpec, read_cluster


def read(tmp_path: Path, text: str) -> ClusterSpec:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return read_cluster(path)


def test_workers(tmp_path: Path) -> None:
    spec = read(tmp_path, "kind: slurm\nworkers: 4\noptions: {cores: 8, memory: 16GB}\n")
    assert spec == ClusterSpec(tmp_path / "cluster.yaml", "slurm", 4, options={"cores": 8, "memory": "16GB"})
    assert (spec.at_first, spec.size, spec.gpu) == (4, "4", False)


@pytest.mark.parametrize(("minimum", "at_first"), [(0, 1), (1, 1), (3, 3)])
def test_adapt_starts_with_at_least_one_worker(tmp_path: Path, minimum: int, at_first: int) -> None:
    spec = read(tmp_path, f"kind: pbs\ngpu: true\nadapt: {{minimum: {minimum}, maximum: 9}}\n")
    assert spec.adapt == Adapt(minimum=minimum, maximum=9)
    assert (spec.at_first, spec.size, spec.gpu) == (at_first, f"{minimum} to 9", True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is None, not an object with kind, workers, adapt"),
        ("- kind: slurm", "not an object with kind, workers, adapt"),
        ("kind: [", "cannot be read"),
        ("kind: slrum\nworkers: 1", "kind is 'slrum', not one of local, slurm"),
        ("workers: 1", "missing field 'kind'"),
        ("kind: [slurm]\nworkers: 1", "kind is ['slurm'], not one of local"),
        ("kind: slurm", "either workers: N or adapt"),
        ("kind: slurm\nworkers: 1\nadapt: {maximum: 2}", "either workers: N or adapt"),
        ("kind: slurm\nworkers: 0", "workers is 0, not between 1 and 1000000"),
        ("kind: slurm\nworkers: true", "workers is True, not a whole number"),
        ("kind: slurm\nworkers: four", "workers is 'four', not a whole number"),
        ("kind: slurm\nworkers: 1\ngpu: 1", "gpu is 1, not true or false"),
        ("kind: slurm\nadapt: 4", "adapt is 4, not an object"),
        ("kind: slurm\nadapt: {minimum: 2}", "adapt: missing field 'maximum'"),
        ("kind: slurm\nadapt: {minimum: 2, maximum: 1}", "adapt: maximum is 1, below minimum, 2"),
        ("kind: slurm\nadapt: {minimum: -1, maximum: 1}", "adapt.minimum is -1, not between 0 and 1000000"),
        ("kind: slurm\nadapt: {most: 1, maximum: 1}", "adapt: unknown field 'most'; known are minimum, maximum"),
        (
            "kind: slurm\nworkers: 1\nqueue: long",
            "unknown setting queue; known are kind, workers, adapt, gpu, patience_minutes, options",
        ),
        ("kind: slurm\nworkers: 1\npython: x", "unknown setting python; known are kind"),
        ("kind: slurm\nworkers: 1\npython: x", "options; python belongs under options"),
        ("kind: slurm\nworkers: 1\npython: x\nqueue: q", "options; python, queue belong under options"),
        (f"kind: slurm\nworkers: 1\npatience_minutes: {'9' * 400}", "patience_minutes is 9999"),
        (f"kind: slurm\nworkers: {'9' * 400}", "not between 1 and 1000000"),
        (f"kind: slurm\nworkers: {'9' * 5000}", "cannot be read"),
        (f"kind: slurm\nworkers: 1\noptions: {'[' * 3000}{']' * 3000}", "cannot be read"),
        ("kind: slurm\nworkers: 1\noptions: [1]", "options is [1], not an object"),
        ("kind: slurm\nworkers: 1\npatience_minutes: -1", "patience_minutes is -1.0, not above 0 and at most 5270400"),
        (
            "kind: cuda\nworkers: 1",
            "start the cluster with `pipelines/gpus/start.sh` and pass its address",
        ),
        ("kind: kubernetes\nworkers: 1", "start the cluster with `kubectl apply -f pipelines/kubernetes/dask-cluster"),
        # YAML takes 12:00:00 for a number to the base of 60, and Slurm would take 43200 for minutes.
        ("kind: slurm\nworkers: 1\noptions: {walltime: 12:00:00}", 'walltime: "04:00:00"'),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert str(tmp_path / "cluster.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster .*nowhere\.yaml cannot be read: .*No such file"):
        read_cluster(tmp_path / "nowhere.yaml")
