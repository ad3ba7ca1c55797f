"""One map over the workers: what becomes of each task, however its worker ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import islice
from typing import Any

from distributed import Client, KilledWorker

from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.runtime.answers import Answer, outcome
from wsi_magnet.runtime.connection import GONE
from wsi_magnet.runtime.isolation import ProcessDied
from wsi_magnet.runtime.types import Notify
from wsi_magnet.runtime.under_way import Attempt, Case, Tools, UnderWay

TASKS_PER_SLOT = 2
"""Under way for each that can run at once: one that runs and one that waits, so that no worker waits for the client."""

LEAST_UNDER_WAY = 8

POLL_S = 5.0
"""How often a map that hears nothing looks whether anybody is still there."""

STUCK_S, STUCK_TIMES = 600.0, 10
"""A task that a worker has had for so long, and so many times as long as any other took, is begun elsewhere as well: a
file system that hangs does not stop the worker's heart."""

TRIES = 3
"""Workers that may refuse a task with an error before the error is taken to be the task's own."""


class Mapping:
    """A function over tasks; used once."""

    def __init__(
        self,
        tools: Tools,
        rank: int,
        function: Callable[[Any], Any],
        lost: Callable[[Any, str], Any] | None,
        again: Callable[[Any], bool] | None,
        tell: Notify,
    ) -> None:
        self._tools, self._lost, self._again, self._tell = tools, lost, again, tell
        self._under_way = UnderWay(tools, function, rank)
        self._suspects: list[Any] = []
        self._shunned: set[str] = set()
        """Workers that have refused a task which another one did."""
        self._deserted_since: float | None = None
        self._longest_s: float | None = None
        """Of all tasks so far, from being submitted to being answered."""

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """The results, as they come."""
        waiting = iter(tasks)
        try:
            self._fill(waiting)
            while self._under_way:
                yield from self._results()
                self._fill(waiting)
            for task in self._suspects:
                with self._tools.alone:
                    self._begin(Case(task, alone=True))
                    while self._under_way:
                        yield from self._results()
        finally:
            self._under_way.cancel(self._under_way.take(lambda _: True))

    def _fill(self, waiting: Iterator[Any]) -> None:
        """Keep as many tasks under way as the workers need."""
        room = max(TASKS_PER_SLOT * sum(self._workers().values()), LEAST_UNDER_WAY)
        for task in islice(waiting, max(0, room - len(self._under_way))):
            self._begin(Case(task))

    def _workers(self) -> dict[str, int]:
        """Threads by worker; the scheduler is waited for if it is gone."""
        while True:
            client = self._tools.connection.client
            try:
                return self._tools.connection.workers()
            except GONE:
                self._recover(client)

    def _begin(self, case: Case) -> None:
        """On any worker that has not refused."""
        fit = frozenset(self._workers().keys() - self._shunned) if self._shunned else None
        self._under_way.submit(case, fit or None)

    def _results(self) -> Iterator[Any]:
        """Of the tasks that have ended; at least one has, though it may have to be done again."""
        while not (ended := self._under_way.wait(POLL_S)):
            self._tools.tend()
            self._look_after()
        self._tools.tend()
        self._deserted_since = None
        for attempt, answer in zip(ended, _answers(ended), strict=True):
            if not attempt.case.settled:
                yield from self._settle(attempt, answer)

    def _look_after(self) -> None:
        """Nothing was heard for a while. Raises ClusterError where nobody has been there to work for too long."""
        workers = self._workers()
        with suppress(*GONE, CancelledError):
            self._double_what_is_stuck(workers.keys())
        for attempt in self._under_way.take(lambda one: one.workers is not None and not one.workers & workers.keys()):
            self._begin(attempt.case)
        if workers or self._tools.coming():
            self._deserted_since = None
            return
        since = self._deserted_since = self._deserted_since or time.monotonic()
        if time.monotonic() - since > self._tools.deserted_s:
            raise ClusterError(
                f"no worker has been there for {self._tools.deserted_s:.0f} s; "
                "start some and run the same command again"
            )

    def _double_what_is_stuck(self, workers: Iterable[str]) -> None:
        if self._longest_s is None:
            return
        limit_s = max(STUCK_S, STUCK_TIMES * self._longest_s)

        def stuck(attempt: Attempt) -> bool:
            return not attempt.case.doubled and time.monotonic() - attempt.begun > limit_s

        for attempt, worker in list(self._under_way.with_their_workers(stuck)):
            if others := frozenset(workers) - {worker} - self._shunned:
                attempt.case.doubled = True
                self._tell(f"the worker {worker} has had a tile for {limit_s:.0f} s; another one tries it as well")
                self._under_way.submit(attempt.case, others)

    def _settle(self, attempt: Attempt, answer: Any) -> Iterator[Any]:
        """The result of a task that has ended, unless it is to be done again."""
        case = attempt.case
        match answer:
            case Answer(ProcessDied() as died, _):
                yield self._given_up(case, f"by itself in a process of its own, {died}")
            case Answer(WsiMagnetError() as error, worker):
                self._refused(case, worker, error)
            case Answer(value, worker):
                self._longest_s = max(self._longest_s or 0.0, time.monotonic() - attempt.begun)
                self._shun(case)
                if not self._asked_elsewhere(case, value, worker):
                    yield self._settled(case, value)
            case KilledWorker():
                yield from self._killed(case)
            case Exception() as error:
                raise error
            case _:  # a result that was lost with the worker that had it, or all with the scheduler
                if attempt.future.status == "cancelled":
                    self._recover(attempt.client)
                self._begin(case)

    def _settled(self, case: Case, value: Any) -> Any:
        case.settled = True
        if case.doubled:
            self._under_way.cancel(self._under_way.take(lambda one: one.case is case))
        return value

    def _asked_elsewhere(self, case: Case, value: Any, worker: str) -> bool:
        """True where a result is not good enough and another worker is asked for it, which happens once."""
        if self._again is None or case.looked_again or not self._again(value):
            return False
        case.looked_again = True
        return self._elsewhere(case, {worker})

    def _killed(self, case: Case) -> Iterator[Any]:
        """Every worker that had the task died. It may only have waited there, so it is tried by itself at the end."""
        if case.alone:
            yield self._given_up(case, "every worker that took it died")
            return
        case.settled = True
        self._tell("workers that had a tile died again and again; it will be tried by itself, in its own process")
        self._suspects.append(case.task)

    def _given_up(self, case: Case, how: str) -> Any:
        reason = f"no worker survived it; {how}"
        if self._lost is not None:
            return self._settled(case, self._lost(case.task, reason))
        raise ClusterError(
            f"a task cannot be done: {reason}; give each worker more memory or pass fewer --workers, "
            "and run the same command again"
        )

    def _refused(self, case: Case, worker: str, error: WsiMagnetError) -> None:
        """A worker cannot do it: perhaps another one can. Raises the error where none is left."""
        case.refusals[worker] = error
        if len(case.refusals) >= TRIES or not self._elsewhere(case, set(case.refusals)):
            raise error

    def _shun(self, case: Case) -> None:
        """What one worker did and another would not is the other one's fault: it gets no more of this."""
        for worker, error in case.refusals.items():
            if worker not in self._shunned:
                self._shunned.add(worker)
                self._tell(f"{error}; the worker {worker} is passed over, and others do its work")

    def _elsewhere(self, case: Case, not_on: set[str]) -> bool:
        """Begin a task again on another worker; False where there is none."""
        workers = self._workers().keys() - not_on - self._shunned
        if workers:
            self._under_way.submit(case, frozenset(workers))
        return bool(workers)

    def _recover(self, lost: Client) -> None:
        """Have a connection again after `lost` has failed, and begin again what was lost with it."""
        connection = self._tools.connection
        if connection.client is lost:
            connection.renew(lost, self._tell)
        for attempt in self._under_way.take(lambda one: one.client is not connection.client):
            self._under_way.submit(attempt.case)


def _answers(ended: list[Attempt]) -> list[Any]:
    """An Answer each, or the exception that ended it; None where that was lost."""
    futures = [attempt.future for attempt in ended]
    if all(future.status == "finished" for future in futures):
        with suppress(Exception):  # one of them is no longer there: then each is asked for itself
            return list(ended[0].client.gather(futures))
    return [outcome(future) for future in futures]
