"""The description of a Dask cluster that a run makes, read and checked from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from wsi_magnet.errors import ConfigError

BATCH_KINDS = ("slurm", "pbs", "lsf", "sge", "htcondor", "oar", "moab")
"""Batch systems, through dask-jobqueue: a worker is a job."""

JOB_OPTIONS = frozenset(
    {
        *("account", "cores", "image", "interface", "job_extra_directives", "job_name", "job_script_prologue"),
        *("local_directory", "log_directory", "memory", "memory_limit", "processes", "project", "python", "queue"),
        *("resources", "threads_per_worker", "walltime"),
    }
)
"""Options that are easily written a level too high."""

MOST_WORKERS, MOST_MINUTES = 1_000_000, 10 * 366 * 24 * 60
"""More is a slip of the keyboard."""

KINDS = ("local", *BATCH_KINDS)

ELSEWHERE = {
    "kubernetes": "kubectl apply -f pipelines/kubernetes/dask-cluster.yaml",
    "cuda": "pipelines/gpus/start.sh",
}
"""Kinds of version 0.1.0 that are now started by hand, each with its command."""


@dataclass(frozen=True, slots=True)
class Adapt:
    """As many workers as there is work for, within bounds."""

    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster that a run makes, and closes when it ends."""

    path: Path
    """The YAML file; errors name it."""
    kind: str
    workers: int | None = None
    """Jobs of a batch system, or processes of this machine."""
    adapt: Adapt | None = None
    """In place of `workers`."""
    gpu: bool = False
    """Workers have a GPU: they declare the Dask resource for it, and tiles go to such workers only."""
    patience_minutes: float = 60.0
    """Time that the first worker may take. A run does not wait for jobs that are known to be over."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the cluster's class, on top of what every run needs."""

    @property
    def at_first(self) -> int:
        """Workers requested at the start: at least one, since a cluster without workers gets no work."""
        if self.workers is not None:
            return self.workers
        return max(1, self.adapt.minimum) if self.adapt else 1

    @property
    def size(self) -> str:
        """Number of workers, in words."""
        if self.adapt:
            return f"{self.adapt.minimum} to {self.adapt.maximum}"
        return str(self.workers)


def read_cluster(path: str | Path) -> ClusterSpec:
    """The cluster that a YAML file describes. Raises ConfigError for a file that cannot be read or has wrong values."""
    path = Path(path).expanduser().absolute()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # of Python: too many digits, too deep
        raise ConfigError(f"--cluster {path} cannot be read: {' '.join(str(error).split())}") from error
    return parse_cluster(values, path)


def parse_cluster(values: object, path: Path) -> ClusterSpec:
    """The same from values that are read already."""
    values = _mapping(values, f"{path}", "kind, workers or adapt, gpu, patience_minutes, options")
    _only(values, {f.name for f in fields(ClusterSpec)} - {"path"}, f"{path}")
    kind = values.get("kind")
    if kind in ELSEWHERE:
        raise ConfigError(
            f"{path}: kind {kind} is no longer made by a run: start the cluster with `{ELSEWHERE[kind]}` and pass its "
            "address, --scheduler ADDRESS in place of --cluster (docs/cluster.md)"
        )
    if kind not in KINDS:
        raise ConfigError(f"{path}: kind is {kind!r}, not one of {', '.join(KINDS)}")
    if ("workers" in values) == ("adapt" in values):
        raise ConfigError(f"{path}: say either workers: N or adapt: {{minimum: N, maximum: N}}")
    gpu = values.get("gpu", False)
    if not isinstance(gpu, bool):
        raise ConfigError(f"{path}: gpu is {gpu!r}, not true or false")
    options = _mapping(values.get("options", {}), f"{path}: options", "names and values for the cluster's class")
    if isinstance(options.get("walltime"), int):
        raise ConfigError(
            f"{path}: options: walltime is the number {options['walltime']} to YAML; "
            'put it in quotes, as walltime: "04:00:00"'
        )
    return ClusterSpec(
        path=path,
        kind=kind,
        workers=_count(values["workers"], 1, f"{path}: workers") if "workers" in values else None,
        adapt=_adapt(values["adapt"], f"{path}: adapt") if "adapt" in values else None,
        gpu=gpu,
        patience_minutes=_minutes(values.get("patience_minutes", 60), f"{path}: patience_minutes"),
        options=options,
    )


def _adapt(value: object, name: str) -> Adapt:
    values = _mapping(value, name, "{minimum: N, maximum: N}")
    _only(values, {"minimum", "maximum"}, name)
    minimum = _count(values.get("minimum", 0), 0, f"{name}: minimum")
    if "maximum" not in values:
        raise ConfigError(f"{name}: maximum is missing; without one a run would ask for workers without end")
    maximum = _count(values["maximum"], max(1, minimum), f"{name}: maximum")
    return Adapt(minimum, maximum)


def _mapping(value: object, name: str, words: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} is {value!r:.60}, not {words}")
    return value


def _only(values: Mapping[str, Any], known: set[str], name: str) -> None:
    if unknown := sorted(values.keys() - known):
        below = [one for one in unknown if one in JOB_OPTIONS and "options" in known]
        hint = f"; {', '.join(below)} {'belongs' if len(below) == 1 else 'belong'} under options" if below else ""
        raise ConfigError(f"{name}: unknown setting {', '.join(unknown)}; there are {', '.join(sorted(known))}{hint}")


def _count(value: object, least: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r:.60}, not a whole number of at least {least}")
    if value > MOST_WORKERS:
        raise ConfigError(f"{name} is {value!r:.60}, and no cluster has more than {MOST_WORKERS}")
    return value


def _minutes(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_MINUTES:
        raise ConfigError(f"{name} is {value!r:.60}, not a number of minutes")
    return float(value)
