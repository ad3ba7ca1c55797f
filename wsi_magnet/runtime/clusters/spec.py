"""The description of a Dask cluster that a run makes, read and checked from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml

from wsi_magnet.errors import ConfigError
from wsi_magnet.schema import Bounds, SchemaError, parse
from wsi_magnet.values import check_fields, documented

BatchKind = Literal["slurm", "pbs", "lsf", "sge", "htcondor", "oar", "moab"]
Kind = Literal["local", BatchKind]

BATCH_KINDS: tuple[BatchKind, ...] = get_args(BatchKind)
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
"""Larger numbers are typing errors."""

ELSEWHERE = {
    "kubernetes": "kubectl apply -f pipelines/kubernetes/dask-cluster.yaml",
    "cuda": "pipelines/gpus/start.sh",
}
"""Kinds of version 0.1.0 that are now started by hand, each with its command."""


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class Adapt:
    """Bounds of a number of workers that follows the work. Raises ValueError if the least is above the most."""

    minimum: Annotated[int, Bounds(0, MOST_WORKERS)] = 0
    """Least number of workers."""
    maximum: Annotated[int, Bounds(1, MOST_WORKERS)]
    """Greatest number of workers."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.minimum > self.maximum:
            raise ValueError(f"maximum is {self.maximum}, below minimum, {self.minimum}")


@documented
@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster that a run makes, and closes when it ends.

    Raises ConfigError, naming the field, for a value that is not allowed, and without exactly one of `workers` and
    `adapt`.
    """

    path: Path
    """The YAML file; errors name it."""
    kind: Kind
    """"local": processes of this machine; otherwise the batch system that runs the workers as jobs."""
    workers: Annotated[int, Bounds(1, MOST_WORKERS)] | None = None
    """Jobs of a batch system, or processes of this machine."""
    adapt: Adapt | None = None
    """In place of `workers`."""
    gpu: bool = False
    """Workers have a GPU: they declare the Dask resource for it, and tiles go to such workers only."""
    patience_minutes: Annotated[float, Bounds(0, MOST_MINUTES, open_below=True)] = 60.0
    """Time that the first worker may take. A run does not wait for jobs that are known to be over."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the cluster's class, on top of what every run needs."""

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.workers is None) == (self.adapt is None):
            raise ConfigError(f"{self.path}: give either workers: N or adapt: {{minimum: N, maximum: N}}")

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
        raise ConfigError(
            f"cluster {path} cannot be read: {' '.join(str(error).split())}", arguments=("cluster",)
        ) from error
    return parse_cluster(values, path)


def parse_cluster(values: object, path: Path) -> ClusterSpec:
    """The cluster that the values of a file describe. Raises ConfigError, naming the file, the key and the value."""
    known = [f.name for f in fields(ClusterSpec) if f.name != "path"]
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is {values!r:.60}, not an object with {', '.join(known)} (docs/cluster.md)")
    if unknown := sorted(map(str, values.keys() - set(known))):
        raise ConfigError(
            f"{path}: unknown setting {', '.join(unknown)}; known are {', '.join(known)}{_misplaced(unknown)}"
        )
    if isinstance(kind := values.get("kind"), str) and kind in ELSEWHERE:
        raise ConfigError(
            f"{path}: kind {kind} is no longer made by a run: start the cluster with `{ELSEWHERE[kind]}` and pass its "
            "address, --scheduler ADDRESS in place of --cluster (docs/cluster.md)"
        )
    try:
        spec: ClusterSpec = parse(ClusterSpec, {**values, "path": path}, "")
    except SchemaError as error:
        raise ConfigError(f"{path}: {error} (docs/cluster.md)") from None
    if isinstance(walltime := spec.options.get("walltime"), int):
        raise ConfigError(
            f'{path}: options: walltime is the number {walltime} to YAML; put it in quotes, as walltime: "04:00:00"'
        )
    return spec


def _misplaced(unknown: list[str]) -> str:
    """Hint about unknown settings that are options of a job; "" without any."""
    below = [name for name in unknown if name in JOB_OPTIONS]
    return f"; {', '.join(below)} {'belongs' if len(below) == 1 else 'belong'} under options" if below else ""
