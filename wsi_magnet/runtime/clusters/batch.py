"""Batch systems through dask-jobqueue: the options of a job, its script, its submission, and its walltime."""

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
from wsi_magnet.runtime.process_setup import PRELOAD, WORKER_ENVIRONMENT
from wsi_magnet.runtime.signals import keep_sigint_handler
from wsi_magnet.text import counted

LOG_FOLDER = "wsi-magnet-logs"
"""Folder of the jobs' output, below the working directory, unless `log_directory` names another."""

SCHEDULER_OPTIONS = ("scheduler_options", "security", "shared_temp_directory", "silence_logs", "protocol")
"""Options of the scheduler, or that a job gets in another form once there is a scheduler."""

TEXT_OPTIONS = ("memory", "python", "log_directory", "local_directory", "job_name", "shebang")
"""Options that dask-jobqueue uses as text without checking."""

DEATH_TIMEOUT_S = 120
"""Time without a scheduler after which a worker ends its job, so that none is left over when a run is killed."""

MARGIN_S = 300.0
"""A worker leaves so long before its job's walltime is over: starting Python on a busy file system takes its share of
it, and a tile in progress is finished."""


@dataclass(frozen=True, slots=True)
class BatchSystem:
    """The commands of a batch system, and dask-jobqueue's class for it."""

    cluster_class: str
    submit: str
    list_jobs: tuple[str, ...]
    """Command that prints a line for each job that is not over, its number first; the user's name is appended. Empty
    if there is none."""
    explain: str
    """Command with which a user finds out why a job does not start."""


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
    """The script of a worker's job, as it would be submitted; nothing is submitted, and no folder is left behind."""
    cls, options = _cluster_class(spec), job_options(spec)
    logs = Path(options["log_directory"])
    existed = logs.exists()
    try:
        with _explained(spec):
            names = {key: value for key, value in options.items() if key not in SCHEDULER_OPTIONS}
            script: str = cls.job_cls("tcp://HOST:PORT", name=f"{cls.__name__}-0", **names).job_script()
            return script
    finally:
        if not existed:
            with suppress(OSError):
                logs.rmdir()


def job_shape(spec: ClusterSpec) -> str:
    """One job in words: its workers, threads, memory and walltime."""
    cores, processes = _whole(spec, "cores"), _whole(spec, "processes", 1)
    memory = spec.options.get("memory") or _configured(spec, "memory")
    walltime = spec.options.get("walltime") or _configured(spec, "walltime")
    until = f", of which {leaves_after(walltime, spec)} are used" if lifetime_arguments(walltime, spec) else ""
    workers, threads = counted(processes, "worker process", "worker processes"), counted(cores // processes, "thread")
    words = f"{workers} with {threads}, {memory}"
    return f"{words}, walltime {walltime}{until}" if until else words


def job_options(spec: ClusterSpec) -> dict[str, Any]:
    """Arguments of dask-jobqueue's class: the user's options on top of what every run needs.

    A job is one worker process unless `processes` says more, and its threads share the networks. It ends in order: the
    shell becomes the worker (`exec`), so that the batch system's SIGTERM reaches it, and the worker leaves before the
    walltime ends.
    """
    wanted = {**dict.fromkeys(("cores", "memory", "processes", "walltime", "python", "log_directory")), **spec.options}
    for name in ("cores", "memory"):
        if wanted[name] is None and _configured(spec, name) is None:
            raise ConfigError(f"{spec.path}: options: {name} of one job is missing; for example cores: 8, memory: 16GB")
    cores, processes = _whole(spec, "cores"), _whole(spec, "processes", 1)
    if processes > cores:
        raise ConfigError(f"{spec.path}: options: {processes} processes share {cores} cores, fewer than one each")
    _check_texts(spec)
    threads = cores // processes
    python = wanted["python"] or _configured(spec, "python") or shlex.quote(sys.executable)
    extra = ["--preload", PRELOAD]
    if spec.gpu:
        extra += ["--resources", f"GPU={threads}"]
    extra += lifetime_arguments(wanted["walltime"] or _configured(spec, "walltime"), spec)
    exports = [f"export {name}={value}" for name, value in WORKER_ENVIRONMENT.items()]
    given = {key: value for key, value in wanted.items() if value is not None}
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
        with keep_sigint_handler():  # its import takes Ctrl-C for itself
            import dask_jobqueue
    except ImportError as error:
        raise ClusterError(
            f"{spec.path}: kind {spec.kind} needs dask-jobqueue: pip install '.[jobqueue]' in wsi-magnet's checkout"
        ) from error
    return getattr(dask_jobqueue, SYSTEMS[spec.kind].cluster_class)


def _configured(spec: ClusterSpec, name: str) -> Any:
    """A value of dask-jobqueue's own configuration, which its import has read; sites may have one, with sections."""
    section = spec.options.get("config_name", spec.kind)
    return dask.config.get(f"jobqueue.{section}.{name.replace('_', '-')}", None)


def _listed(spec: ClusterSpec, name: str) -> list[str]:
    value = spec.options.get(name, _configured(spec, name) or [])
    if not isinstance(value, list):
        raise ConfigError(f"{spec.path}: options: {name} is {value!r:.60}, not a list")
    return [str(one) for one in value]


def _check_texts(spec: ClusterSpec) -> None:
    for name in TEXT_OPTIONS:
        value = spec.options.get(name)
        is_bytes = name == "memory" and isinstance(value, int) and not isinstance(value, bool)
        if not (value is None or is_bytes or isinstance(value, str)):
            raise ConfigError(f"{spec.path}: options: {name} is {value!r:.60}, not text")
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
    """Raise dask-jobqueue's errors about options as ours."""
    try:
        yield
    except (TypeError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"{spec.path}: options: {_first_line(error)}") from error
    except OSError as error:
        raise ConfigError(f"{spec.path}: options: log_directory cannot be made: {error}") from error
    except RuntimeError as error:
        raise ClusterError(f"{spec.path}: the scheduler cannot start here: {str(error).splitlines()[0]}") from error


def _first_line(error: Exception) -> str:
    """The first line of an error; an unknown option by its name."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", first):
        return f"dask-jobqueue knows no option {unknown[1]}"
    return first


def _answer(error: Exception) -> str:
    """The batch system's own words, out of dask-jobqueue's report of the call."""
    lines = str(error).partition("stderr:")[2].split("\n") if "stderr:" in str(error) else str(error).split("\n")
    return "; ".join(line.strip() for line in lines if line.strip()) or type(error).__name__


def lifetime_arguments(walltime: object, spec: ClusterSpec) -> list[str]:
    """Arguments that make a Dask worker leave before its walltime ends; none if there is no walltime.

    The times are drawn within bounds, so that not all workers leave at once.
    """
    if walltime is None or spec.kind == "htcondor":
        return []
    lifetime, stagger = _lifetime(walltime, spec)
    return ["--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]


def leaves_after(walltime: object, spec: ClusterSpec) -> str:
    """The minutes after which a worker leaves, in words."""
    lifetime, stagger = _lifetime(walltime, spec)
    return f"{(lifetime - stagger) / 60:.0f} to {(lifetime + stagger) / 60:.0f} minutes"


def _lifetime(walltime: object, spec: ClusterSpec) -> tuple[float, float]:
    seconds = walltime_s(str(walltime), spec.kind)
    if seconds is None:
        raise ConfigError(f"{spec.path}: options: walltime {walltime!r} cannot be read; write for example '04:00:00'")
    margin = min(MARGIN_S, seconds / 5)
    return seconds - 1.5 * margin, margin / 2


def walltime_s(text: str, kind: str) -> float | None:
    """Seconds of a walltime as a batch system writes it; None for other text.

    Slurm: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS[:MINUTES[:SECONDS]]. LSF: MINUTES or
    HOURS:MINUTES. The others: SECONDS, MINUTES:SECONDS or HOURS:MINUTES:SECONDS.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        return None
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        units = [3600, 60, 1]
    elif kind == "lsf":
        units = [[60], [3600, 60], [3600, 60, 1]][len(numbers) - 1]
    elif len(numbers) == 1:
        units = [60 if kind == "slurm" else 1]
    else:
        units = [3600, 60, 1][-len(numbers) :]
    return 86400 * int(days or 0) + sum(number * unit for number, unit in zip(numbers, units, strict=False)) or None
