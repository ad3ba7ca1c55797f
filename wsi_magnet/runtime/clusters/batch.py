"""Batch systems through dask-jobqueue: what a job needs besides what its user says, its script, and its submission."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed.core import Status

from wsi_magnet.errors import ClusterError, ConfigError
from wsi_magnet.runtime.clusters.spec import ClusterSpec
from wsi_magnet.runtime.clusters.walltime import leaves_after, lifetime_arguments
from wsi_magnet.runtime.signals import same_ctrl_c
from wsi_magnet.runtime.worker_settings import PRELOAD, WORKER_ENVIRONMENT
from wsi_magnet.text import counted

LOG_FOLDER = "wsi-magnet-logs"
"""Of the jobs, below the folder where the run was started, unless `log_directory` says another."""

OF_THE_SCHEDULER = ("scheduler_options", "security", "shared_temp_directory", "silence_logs", "protocol")
"""Options that are not a job's, or that it gets in another form once a scheduler is there."""

TEXTS = ("memory", "python", "log_directory", "local_directory", "job_name", "shebang")
"""Options that dask-jobqueue takes for texts without a look at them."""

DEATH_TIMEOUT_S = 120
"""A worker whose scheduler is gone that long ends its job, so that none is left over when a run is killed."""


@dataclass(frozen=True, slots=True)
class BatchSystem:
    """What is known of a batch system besides dask-jobqueue's class for it."""

    cluster_class: str
    submit: str
    ask: tuple[str, ...]
    """Prints a line for each job that is not over, its number first; the user's name is put after it. Empty where we
    know of none."""
    ask_by_hand: str
    """For people: why does my job not start?"""


SYSTEMS: Mapping[str, BatchSystem] = {
    "slurm": BatchSystem("SLURMCluster", "sbatch", ("squeue", "-h", "-o", "%i %T %r", "-u"), "squeue --me"),
    "pbs": BatchSystem("PBSCluster", "qsub", ("qstat", "-u"), "qstat -f JOB"),
    "lsf": BatchSystem("LSFCluster", "bsub", ("bjobs", "-w", "-u"), "bjobs -p"),
    "sge": BatchSystem("SGECluster", "qsub", ("qstat", "-u"), "qstat -j JOB"),
    "htcondor": BatchSystem("HTCondorCluster", "condor_submit", ("condor_q", "-nobatch"), "condor_q -better-analyze"),
    "oar": BatchSystem("OARCluster", "oarsub", (), "oarstat -f -j JOB"),
    "moab": BatchSystem("MoabCluster", "msub", (), "checkjob JOB"),
}


def batch_cluster(spec: ClusterSpec) -> Any:
    """A dask-jobqueue cluster that has submitted its first jobs.

    Raises ConfigError for options that cannot be used, ClusterError where the batch system is missing or refuses.
    """
    system = SYSTEMS[spec.kind]
    cls = _cluster_class(spec)
    if shutil.which(system.submit) is None:
        raise ClusterError(
            f"{spec.path}: {system.submit} is not found here; start the run where jobs are submitted (a login node, or "
            f"a job that may submit others), or choose another kind than {spec.kind}"
        )
    # Jobs that have gone are submitted again by whoever keeps them, who knows the queue; Dask's own timer, which does
    # not, would cancel them anew.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "3650 days"})
    with _explained(spec):
        cluster = cls(job_cls=_with_status(cls.job_cls), **job_options(spec))
    try:
        for _ in range(spec.at_first):
            cluster.worker_spec.update(cluster.new_worker_spec())
        cluster.sync(submit_missing, cluster)  # `scale` would submit later and swallow the batch system's answer
    except (RuntimeError, OSError, ValueError) as error:
        cluster.close()
        raise ClusterError(
            f"{spec.path}: {system.submit} refuses the job: {_answer(error)}; "
            f"`wsi-magnet cluster {spec.path}` shows its script"
        ) from error
    return cluster


async def submit_missing(cluster: Any) -> None:
    """Submit the jobs that `cluster.worker_spec` names and the batch system does not have yet; run in its event loop.

    Raises what a refused submission raises.
    """
    await cluster


def _with_status(job_cls: Any) -> Any:
    """A job class that keeps its status, which dask-jobqueue's own leaves at `running` for good.

    Dask asserts, as a cluster closes, that every job it ever made is closed or failed; and it starts again whatever is
    neither.
    """

    class Job(job_cls):  # type: ignore[misc]
        async def start(self) -> None:
            try:
                await super().start()
            except BaseException:
                self.status = Status.failed
                raise

        async def close(self) -> None:
            try:
                await super().close()
            finally:
                self.status = Status.closed

    return Job


def job_script(spec: ClusterSpec) -> str:
    """The script of a worker's job, as it would be submitted. Nothing is submitted, and nothing is left behind."""
    cls, options = _cluster_class(spec), job_options(spec)
    logs = Path(options["log_directory"])
    was_there = logs.exists()
    try:
        with _explained(spec):
            names = {key: value for key, value in options.items() if key not in OF_THE_SCHEDULER}
            script: str = cls.job_cls("tcp://HOST:PORT", name=f"{cls.__name__}-0", **names).job_script()
            return script
    finally:
        if not was_there:
            with suppress(OSError):
                logs.rmdir()


def job_shape(spec: ClusterSpec) -> str:
    """For people: what one job is."""
    cores, processes = _whole(spec, "cores"), _whole(spec, "processes", 1)
    memory = spec.options.get("memory") or _configured(spec, "memory")
    walltime = spec.options.get("walltime") or _configured(spec, "walltime")
    until = f", of which {leaves_after(walltime, spec)} are used" if lifetime_arguments(walltime, spec) else ""
    workers, threads = counted(processes, "worker process", "worker processes"), counted(cores // processes, "thread")
    words = f"{workers} with {threads}, {memory}"
    return f"{words}, walltime {walltime}{until}" if until else words


def job_options(spec: ClusterSpec) -> dict[str, Any]:
    """What dask-jobqueue's class is given: the user's options on top of what every run needs.

    A job is one worker process unless `processes` says more, and its threads share the networks. It is stopped with a
    word: the shell becomes the worker, so that the batch system's SIGTERM reaches it, and it leaves before its
    walltime ends.
    """
    asked = {**dict.fromkeys(("cores", "memory", "processes", "walltime", "python", "log_directory")), **spec.options}
    for name in ("cores", "memory"):
        if asked[name] is None and _configured(spec, name) is None:
            raise ConfigError(
                f"{spec.path}: options: {name} is missing, of one job; for example cores: 8, memory: 16GB"
            )
    cores, processes = _whole(spec, "cores"), _whole(spec, "processes", 1)
    if processes > cores:
        raise ConfigError(f"{spec.path}: options: {processes} processes have fewer than one of {cores} cores each")
    _check_texts(spec)
    threads = cores // processes
    python = asked["python"] or _configured(spec, "python") or shlex.quote(sys.executable)
    extra = ["--preload", PRELOAD]
    if spec.gpu:
        extra += ["--resources", f"GPU={threads}"]
    extra += lifetime_arguments(asked["walltime"] or _configured(spec, "walltime"), spec)
    exports = [f"export {name}={value}" for name, value in WORKER_ENVIRONMENT.items()]
    given = {key: value for key, value in asked.items() if value is not None}
    return {
        "death_timeout": DEATH_TIMEOUT_S,
        "local_directory": "${TMPDIR:-/tmp}",
        "log_directory": str(Path.cwd() / LOG_FOLDER),
        "job_name": "wsi-magnet",
        **given,
        "processes": processes,
        "python": f"exec {python}",
        "worker_extra_args": extra + _listed(spec, "worker_extra_args"),
        "job_script_prologue": exports + _listed(spec, "job_script_prologue"),
        "scheduler_options": {"dashboard_address": ":0", **given.get("scheduler_options", {})},
    }


def _cluster_class(spec: ClusterSpec) -> Any:
    try:
        with same_ctrl_c():  # its import takes Ctrl-C for itself
            import dask_jobqueue
    except ImportError as error:
        raise ClusterError(
            f"{spec.path}: kind {spec.kind} needs dask-jobqueue: pip install '.[jobqueue]' in wsi-magnet's checkout"
        ) from error
    return getattr(dask_jobqueue, SYSTEMS[spec.kind].cluster_class)


def _configured(spec: ClusterSpec, name: str) -> Any:
    """What dask-jobqueue's own configuration says, which its import has read; sites may have one, with sections."""
    section = spec.options.get("config_name", spec.kind)
    return dask.config.get(f"jobqueue.{section}.{name.replace('_', '-')}", None)


def _listed(spec: ClusterSpec, name: str) -> list[str]:
    value = spec.options.get(name, _configured(spec, name) or [])
    if not isinstance(value, list):
        raise ConfigError(f"{spec.path}: options: {name} is {value!r:.60}, not a list")
    return [str(one) for one in value]


def _check_texts(spec: ClusterSpec) -> None:
    for name in TEXTS:
        value = spec.options.get(name)
        is_bytes = name == "memory" and isinstance(value, int) and not isinstance(value, bool)
        if not (value is None or is_bytes or isinstance(value, str)):
            raise ConfigError(f"{spec.path}: options: {name} is {value!r:.60}, not a text")
    if len(str(spec.options.get("job_name", "x")).split()) != 1:
        raise ConfigError(
            f"{spec.path}: options: job_name is {spec.options['job_name']!r:.60}; batch systems take one word"
        )


def _whole(spec: ClusterSpec, name: str, default: int | None = None) -> int:
    value = spec.options.get(name, _configured(spec, name))
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{spec.path}: options: {name} is {value!r}, not a whole number of at least 1")
    return value


@contextmanager
def _explained(spec: ClusterSpec) -> Iterator[None]:
    """dask-jobqueue's complaints about options as ours."""
    try:
        yield
    except (TypeError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"{spec.path}: options: {_complaint(error)}") from error
    except OSError as error:
        raise ConfigError(f"{spec.path}: options: log_directory cannot be made: {error}") from error
    except RuntimeError as error:
        raise ClusterError(f"{spec.path}: the scheduler cannot start here: {str(error).splitlines()[0]}") from error


def _complaint(error: Exception) -> str:
    """An option that nobody takes by its name, other complaints as they are."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", first):
        return f"dask-jobqueue knows no option {unknown[1]}"
    return first


def _answer(error: Exception) -> str:
    """What the batch system said, out of dask-jobqueue's report of the call."""
    said = str(error).partition("stderr:")[2].split("\n") if "stderr:" in str(error) else str(error).split("\n")
    return "; ".join(line.strip() for line in said if line.strip()) or type(error).__name__
