"""Keeps the jobs of a batch system up: those that were cancelled, preempted or out of time are submitted again."""

from __future__ import annotations

import getpass
import logging
import re
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.batch_systems import SYSTEMS, job_options
from wsi_magnet.runtime.cluster_spec import ClusterSpec

logger = logging.getLogger(__name__)

CHECK_S = 10.0
"""Between two looks at the workers; the batch system is asked only where one is missing."""

ATTEMPTS = 3
"""Jobs in a row that end without a worker before nobody tries any more: something is wrong with them."""

UNKNOWN_LOOKS = 12
"""Looks after which a worker that was there and has gone is given up where the batch system does not answer."""

_ASK_TIMEOUT_S = 30


class JobKeeper:
    """Looks after the jobs of a dask-jobqueue cluster, in a thread of its own until it is stopped."""

    def __init__(self, cluster: Any, spec: ClusterSpec) -> None:
        self._cluster, self._spec, self._system = cluster, spec, SYSTEMS[spec.kind]
        self._logs = job_options(spec)["log_directory"]
        self._missed: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._vain: Counter[str] = Counter()
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
                del self._missed[name], self._vain[name]
            else:
                self._missed[name] += 1
                missing.append(name)
        return missing

    async def _renew(self, told: dict[int, str] | None) -> None:
        """In the cluster's loop. told: the jobs that the batch system knows, None where it does not answer."""
        renewed = []
        for name in self._missing():
            job = self._cluster.workers.get(name)
            if name not in self._cluster.worker_spec or job is None or not self._is_over(name, job, told):
                continue
            if name not in self._seen:
                self._vain[name] += 1
            if self._vain[name] >= ATTEMPTS:
                continue
            self._seen.discard(name)
            del self._cluster.workers[name]
            renewed.append(name)
            await job.close()
        if renewed:
            logger.warning("%d jobs are over before their work is; submitted again", len(renewed))
            await self._cluster._correct_state()

    def _is_over(self, name: str, job: Any, told: dict[int, str] | None) -> bool:
        if job.job_id is None:
            return True  # it was refused
        if told is None:
            return name in self._seen and self._missed[name] > UNKNOWN_LOOKS
        return _number(str(job.job_id)) not in told

    def _numbers(self) -> list[int]:
        ids = [str(job.job_id) for job in list(self._cluster.workers.values()) if getattr(job, "job_id", None)]
        return [number for number in map(_number, ids) if number is not None]


def ask_queue(spec: ClusterSpec) -> dict[int, str] | None:
    """The user's jobs that are not over: what the batch system says of each, by number. None if it does not answer."""
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
