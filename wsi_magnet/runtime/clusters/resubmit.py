"""Keeps the jobs of a batch system up: those that were cancelled, preempted or out of time are submitted again."""

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
"""Between two looks at the workers; the batch system is asked only where one is missing."""

ATTEMPTS = 3
"""Jobs in a row that end without a worker before nobody tries any more: something is wrong with them."""

ABSENT_LOOKS, UNKNOWN_LOOKS = 2, 6
"""Looks in a row after which a job without a worker is over: where the batch system does not know it, which may come a
little late, or, if its worker has been there before, where the batch system does not answer."""

REFUSALS = 60
"""Submissions in a row that the batch system refuses, once a run is under way, before nobody tries any more: it may be
down for a while."""

_ASK_TIMEOUT_S = 30


class JobKeeper:
    """Looks after the jobs of a dask-jobqueue cluster, in a thread of its own until it is stopped."""

    def __init__(self, cluster: Any, spec: ClusterSpec) -> None:
        self._cluster, self._spec, self._system = cluster, spec, SYSTEMS[spec.kind]
        self._logs = job_options(spec)["log_directory"]
        self._absent: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._vain: defaultdict[str, float] = defaultdict(float)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job keeper", daemon=True)
        self._thread.start()

    def coming(self) -> bool:
        """Whether workers are on their way, or will be. Raises ClusterError where job after job ends in vain."""
        wanted = set(self._cluster.worker_spec)
        lost = {name for name in wanted if self._vain[name] >= ATTEMPTS}
        if wanted and lost == wanted:
            raise ClusterError(
                f"{self._spec.path}: {ATTEMPTS} jobs in a row ended before a worker came of them; "
                f"their output in {self._logs} says why"
            )
        return bool(wanted - lost) or self._spec.adapt is not None

    def queue(self) -> str:
        """For people: what the batch system says of the jobs now."""
        told = ask_queue(self._spec)
        if told is None:
            return f"see `{self._system.ask_by_hand}`"
        ours = Counter(told[number] for number in self._numbers() if number in told)
        states = ", ".join(f"{count} {state}" for state, count in ours.most_common(3))
        return f"{states or 'none of them is queued'}; see `{self._system.ask_by_hand}`"

    def stop(self) -> None:
        """Submit nothing any more."""
        self._stopped.set()
        self._thread.join(_ASK_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopped.wait(CHECK_S):
            with suppress(Exception):  # the next look is soon; whether anybody is left, the executor watches
                self.look()

    def look(self) -> None:
        """Submit again what is over."""
        if not self._missing():
            return
        told = ask_queue(self._spec)
        if not self._stopped.is_set():
            self._cluster.sync(self._renew, told)

    def _missing(self) -> list[str]:
        """Jobs without a worker; notes which have one."""
        there = {worker["name"] for worker in self._cluster.scheduler_info["workers"].values()}
        missing = []
        for name, one in list(self._cluster.worker_spec.items()):
            names = {f"{name}{suffix}" for suffix in one.get("group", [""])}
            if names & {str(other) for other in there}:
                self._seen.add(name)
                self._absent[name], self._vain[name] = 0, 0.0
            else:
                missing.append(name)
        return missing

    async def _renew(self, told: dict[int, str] | None) -> None:
        """In the cluster's loop. told: the jobs that the batch system knows, None where it does not answer."""
        renewed = []
        for name in self._missing():
            job = self._cluster.workers.get(name)
            if job is None:
                continue  # it is being submitted
            if not self._is_over(name, job, told):
                continue
            if name not in self._seen:
                self._vain[name] += 1 if job.job_id else ATTEMPTS / REFUSALS
            if self._vain[name] >= ATTEMPTS:
                continue
            self._seen.discard(name)
            del self._absent[name]
            del self._cluster.workers[name]
            renewed.append(name)
            await job.close()
        if renewed:
            await submit_missing(self._cluster)
            logger.warning("%d jobs are over before their work is; submitted again", len(renewed))

    def _is_over(self, name: str, job: Any, told: dict[int, str] | None) -> bool:
        if job.job_id is None:
            return True  # it was refused
        if told is None and name not in self._seen:
            return False
        if told is not None and _number(str(job.job_id)) in told:
            del self._absent[name]
            return False
        self._absent[name] += 1
        return self._absent[name] >= (UNKNOWN_LOOKS if told is None else ABSENT_LOOKS)

    def _numbers(self) -> list[int]:
        ids = [str(job.job_id) for job in list(self._cluster.workers.values()) if getattr(job, "job_id", None)]
        return [number for number in map(_number, ids) if number is not None]


def ask_queue(spec: ClusterSpec) -> dict[int, str] | None:
    """The user's jobs that are not over: what the batch system says of each, by number. None if it does not answer."""
    if not SYSTEMS[spec.kind].ask:
        return None
    try:
        command = [*SYSTEMS[spec.kind].ask, getpass.getuser()]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=True).stdout
    except (OSError, KeyError, subprocess.SubprocessError):
        return None
    jobs = {}
    for line in answer.splitlines():
        if (number := _number(line)) is not None:
            jobs[number] = " ".join(line.split()[1:])
    return jobs


def _number(text: str) -> int | None:
    """A job's number, at the beginning of its id or of a line."""
    match = re.match(r"\s*(\d+)", text)
    return int(match[1]) if match else None
