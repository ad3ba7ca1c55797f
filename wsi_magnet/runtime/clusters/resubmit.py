"""Submit jobs of a batch system again that were cancelled, preempted or out of time."""

from __future__ import annotations

import getpass
import logging
import re
import subprocess
import threading
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Any

from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.clusters.batch import SYSTEMS, job_options, submit_missing
from wsi_magnet.runtime.clusters.spec import ClusterSpec

logger = logging.getLogger(__name__)

CHECK_S = 10.0
"""Time between two checks of the workers; the batch system is queried only if one is missing."""

ATTEMPTS = 3
"""Jobs in a row that may end without a worker: then something is wrong with them, and no more are submitted."""

ABSENT_CHECKS, UNKNOWN_CHECKS = 2, 6
"""Checks in a row after which a job without a worker is over: while the batch system does not list it, which it may do
a little late, and, if its worker has been there before, while the batch system does not answer."""

REFUSALS = 60
"""Submissions in a row that the batch system may refuse once a run has started: it may be down for a while."""

_ASK_TIMEOUT_S = 30


class JobResubmitter:
    """Watches the jobs of a dask-jobqueue cluster in a thread of its own until `stop`."""

    def __init__(self, cluster: Any, spec: ClusterSpec) -> None:
        self._cluster, self._spec, self._system = cluster, spec, SYSTEMS[spec.kind]
        self._logs = job_options(spec)["log_directory"]
        self._absent: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._fruitless: defaultdict[str, float] = defaultdict(float)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job resubmitter", daemon=True)
        self._thread.start()

    def workers_pending(self) -> bool:
        """True if jobs are queued or will be submitted. Raises ClusterError if job after job ended without a worker."""
        wanted = set(self._cluster.worker_spec)
        lost = {name for name in wanted if self._fruitless[name] >= ATTEMPTS}
        if wanted and lost == wanted:
            raise ClusterError(
                f"{self._spec.path}: {ATTEMPTS} jobs in a row ended before their worker started; "
                f"see their output in {self._logs}"
            )
        return bool(wanted - lost) or self._spec.adapt is not None

    def queue(self) -> str:
        """The states of the jobs in the batch system, in words."""
        listed = list_jobs(self._spec)
        if listed is None:
            return f"see `{self._system.explain}`"
        ours = Counter(listed[number] for number in self._numbers() if number in listed)
        states = ", ".join(f"{count} {state}" for state, count in ours.most_common(3))
        return f"{states or 'none of them is queued'}; see `{self._system.explain}`"

    def stop(self) -> None:
        """Submit no more jobs."""
        self._stopped.set()
        self._thread.join(_ASK_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopped.wait(CHECK_S):
            with suppress(Exception):  # the next check is soon, and the executor watches whether any worker is left
                self.check()

    def check(self) -> None:
        """Submit the jobs again that are over."""
        if not self._missing():
            return
        listed = list_jobs(self._spec)
        if not self._stopped.is_set():
            self._cluster.sync(self._replace, listed)

    def _missing(self) -> list[str]:
        """Names of the jobs without a worker; records the jobs that have one."""
        there = {worker["name"] for worker in self._cluster.scheduler_info["workers"].values()}
        missing = []
        for name, one in list(self._cluster.worker_spec.items()):
            names = {f"{name}{suffix}" for suffix in one.get("group", [""])}
            if names & {str(other) for other in there}:
                self._seen.add(name)
                self._absent[name], self._fruitless[name] = 0, 0.0
            else:
                missing.append(name)
        return missing

    async def _replace(self, listed: dict[int, str] | None) -> None:
        """Run in the cluster's event loop. listed: the batch system's jobs; None if it does not answer."""
        replaced = []
        for name in self._missing():
            job = self._cluster.workers.get(name)
            if job is None:
                continue  # it is being submitted
            if not self._is_over(name, job, listed):
                continue
            if name not in self._seen:
                self._fruitless[name] += 1 if job.job_id else ATTEMPTS / REFUSALS
            if self._fruitless[name] >= ATTEMPTS:
                continue
            self._seen.discard(name)
            del self._absent[name]
            del self._cluster.workers[name]
            replaced.append(name)
            await job.close()
        if replaced:
            await submit_missing(self._cluster)
            logger.warning("%d jobs ended before the run did; submitted again", len(replaced))

    def _is_over(self, name: str, job: Any, listed: dict[int, str] | None) -> bool:
        if job.job_id is None:
            return True  # it was refused
        if listed is None and name not in self._seen:
            return False
        if listed is not None and _number(str(job.job_id)) in listed:
            del self._absent[name]
            return False
        self._absent[name] += 1
        return self._absent[name] >= (UNKNOWN_CHECKS if listed is None else ABSENT_CHECKS)

    def _numbers(self) -> list[int]:
        ids = [str(job.job_id) for job in list(self._cluster.workers.values()) if getattr(job, "job_id", None)]
        return [number for number in map(_number, ids) if number is not None]


def list_jobs(spec: ClusterSpec) -> dict[int, str] | None:
    """States of the user's jobs that are not over, by number; None if the batch system does not answer."""
    if not SYSTEMS[spec.kind].list_jobs:
        return None
    try:
        command = [*SYSTEMS[spec.kind].list_jobs, getpass.getuser()]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=True).stdout
    except (OSError, KeyError, subprocess.SubprocessError):
        return None
    jobs = {}
    for line in answer.splitlines():
        if (number := _number(line)) is not None:
            jobs[number] = " ".join(line.split()[1:])
    return jobs


def _number(text: str) -> int | None:
    """The job number at the beginning of a job id or of a line."""
    match = re.match(r"\s*(\d+)", text)
    return int(match[1]) if match else None
