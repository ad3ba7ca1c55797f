"""One map over the workers: what is under way, and what becomes of each task however its worker ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, islice
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, KilledWorker, get_worker

from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.runtime.apart import Died, run_apart
from wsi_magnet.runtime.connection import GONE, Connection
from wsi_magnet.runtime.types import Tell

TASKS_PER_SLOT = 2
"""Under way for each that can run at once: one that runs and one that waits, so that no worker waits for the client."""

LEAST_UNDER_WAY = 8

POLL_S = 5.0
"""How often a map that hears nothing looks whether anybody is still there."""

TRIES = 3
"""Workers that may refuse a task with an error before the error is taken to be the task's own."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What all maps of an executor share."""

    connection: Connection
    resources: dict[str, int] | None
    """That a worker must have."""
    numbers: count[int]
    alone: threading.Lock
    """Held by the map that tries a task by itself: one at a time."""
    deserted_s: float
    tend: Callable[[], object]
    """Called every few seconds."""
    coming: Callable[[], bool]
    """Whether workers are on their way though none is there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of a task: a result, or an error of ours. Dask prints the traceback of any that is raised."""

    value: Any
    worker: str


@dataclass(eq=False, slots=True)
class _Attempt:
    """A task under way."""

    task: Any
    client: Client
    future: Future[Any]
    workers: frozenset[str] | None
    """The only ones that may do it; None: any."""
    refusals: dict[str, WsiMagnetError] = field(default_factory=dict)
    """By the address of the worker."""
    looked_again: bool = False
    alone: bool = False


class Mapping:
    """A function over tasks; used once."""

    def __init__(
        self,
        tools: Tools,
        rank: int,
        function: Callable[[Any], Any],
        lost: Callable[[Any, str], Any] | None,
        again: Callable[[Any], bool] | None,
        tell: Tell,
    ) -> None:
        self._tools, self._rank, self._function = tools, rank, function
        self._lost, self._again, self._tell = lost, again, tell
        self._under_way: dict[str, _Attempt] = {}
        self._ended: SimpleQueue[str] = SimpleQueue()
        self._suspects: list[Any] = []
        self._shunned: set[str] = set()
        """Workers that have refused a task which another one did."""
        self._client: Client = tools.connection.client
        self._deserted_since: float | None = None

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
                    self._submit(task, alone=True)
                    while self._under_way:
                        yield from self._results()
        finally:
            self._cancel()

    def _fill(self, waiting: Iterator[Any]) -> None:
        """Keep as many tasks under way as the workers need."""
        for task in islice(waiting, max(0, self._room() - len(self._under_way))):
            self._submit(task)

    def _room(self) -> int:
        return max(TASKS_PER_SLOT * sum(self._workers().values()), LEAST_UNDER_WAY)

    def _workers(self) -> dict[str, int]:
        """Threads by worker; the scheduler is waited for if it is gone."""
        while True:
            try:
                return self._tools.connection.workers()
            except GONE:
                self._recover(self._client)

    def _results(self) -> Iterator[Any]:
        """Of the tasks that have ended; at least one has, though it may have to be done again."""
        ended = self._wait()
        answers = self._answers(ended)
        for attempt, answer in zip(ended, answers, strict=True):
            yield from self._settle(attempt, answer)

    def _wait(self) -> list[_Attempt]:
        while True:
            self._tools.tend()
            with suppress(Empty):
                keys = [self._ended.get(timeout=POLL_S)]
                while not self._ended.empty():
                    keys.append(self._ended.get())
                # One that is not under way was given up with the connection, or begun anew elsewhere.
                if ended := [self._under_way.pop(key) for key in keys if key in self._under_way]:
                    self._deserted_since = None
                    return ended
                continue
            self._look_after()

    def _look_after(self) -> None:
        """Nothing was heard for a while. Raises ClusterError where nobody has been there to work for too long."""
        workers = self._workers()
        for key, attempt in list(self._under_way.items()):
            if attempt.workers is not None and not attempt.workers & workers.keys():
                del self._under_way[key]
                self._repeat(attempt)
        if workers or self._tools.coming():
            self._deserted_since = None
            return
        since = self._deserted_since = self._deserted_since or time.monotonic()
        if time.monotonic() - since > self._tools.deserted_s:
            raise ClusterError(
                f"no worker has been there for {self._tools.deserted_s:.0f} s; "
                "start some and run the same command again"
            )

    def _answers(self, ended: list[_Attempt]) -> list[Any]:
        """An Answer each, or the exception that ended it; None where that was lost."""
        futures = [attempt.future for attempt in ended]
        if all(future.status == "finished" for future in futures):
            with suppress(Exception):  # one of them is no longer there: then each is asked for itself
                return list(ended[0].client.gather(futures))
        return [_outcome(future) for future in futures]

    def _settle(self, attempt: _Attempt, answer: Any) -> Iterator[Any]:
        """The result of a task that has ended, unless it is to be done again."""
        match answer:
            case Answer(Died() as died, _):
                yield self._given_up(attempt.task, f"by itself in a process of its own, {died.how}")
            case Answer(WsiMagnetError() as error, worker):
                self._refused(attempt, worker, error)
            case Answer(value, worker):
                self._shun(attempt)
                if self._again is not None and self._again(value) and not attempt.looked_again:
                    attempt.looked_again = True
                    if self._elsewhere(attempt, {worker}):
                        return
                yield value
            case KilledWorker():
                yield from self._killed(attempt)
            case Exception() as error:
                raise error
            case _:  # a result that was lost with the worker that had it, or all with the scheduler
                if attempt.future.status == "cancelled":
                    self._recover(attempt.client)
                self._repeat(attempt)

    def _killed(self, attempt: _Attempt) -> Iterator[Any]:
        """Every worker that had the task died. It may only have waited there, so it is tried by itself at the end."""
        if attempt.alone:
            yield self._given_up(attempt.task, "every worker that took it died")
        else:
            self._tell("workers that had a tile died again and again; it will be tried by itself, in its own process")
            self._suspects.append(attempt.task)

    def _given_up(self, task: Any, how: str) -> Any:
        reason = f"no worker survived it; {how}"
        if self._lost is not None:
            return self._lost(task, reason)
        raise ClusterError(
            f"a task cannot be done: {reason}; give each worker more memory or pass fewer --workers, "
            "and run the same command again"
        )

    def _refused(self, attempt: _Attempt, worker: str, error: WsiMagnetError) -> None:
        """A worker cannot do it: perhaps another one can. Raises the error where none is left."""
        attempt.refusals[worker] = error
        if len(attempt.refusals) >= TRIES or not self._elsewhere(attempt, set(attempt.refusals)):
            raise error

    def _shun(self, attempt: _Attempt) -> None:
        """What one worker did and another would not is the other one's fault: it gets no more of this."""
        for worker, error in attempt.refusals.items():
            if worker not in self._shunned:
                self._shunned.add(worker)
                self._tell(f"{error}; the worker {worker} is passed over, and others do its work")

    def _elsewhere(self, attempt: _Attempt, not_on: set[str]) -> bool:
        """Begin a task again on another worker; False where there is none."""
        workers = self._workers().keys() - not_on - self._shunned
        if workers:
            self._repeat(attempt, frozenset(workers))
        return bool(workers)

    def _repeat(self, attempt: _Attempt, workers: frozenset[str] | None = None) -> None:
        """Begin a task again, with what is known of it."""
        again = self._submit(attempt.task, alone=attempt.alone, workers=workers)
        again.refusals, again.looked_again = attempt.refusals, attempt.looked_again

    def _submit(self, task: Any, *, alone: bool = False, workers: frozenset[str] | None = None) -> _Attempt:
        if workers is None and self._shunned:
            workers = frozenset(self._workers().keys() - self._shunned) or None
        # A key of our own: tasks have effects, so two equal ones of two runs must never be taken for the same work.
        name = f"{type(self._function).__name__}-{self._client.id}-{next(self._tools.numbers)}"
        future = self._client.submit(
            answered_apart if alone else answered,
            self._function,
            task,
            key=name,
            pure=False,
            priority=-self._rank,
            resources=self._tools.resources,
            workers=None if workers is None else sorted(workers),
        )
        attempt = _Attempt(task, self._client, future, workers, alone=alone)
        self._under_way[name] = attempt
        future.add_done_callback(lambda _: self._ended.put(name))
        return attempt

    def _recover(self, lost: Client) -> None:
        """Have a connection again after `lost` has failed, and begin again what was lost with it."""
        connection = self._tools.connection
        if connection.client is lost:
            connection.renew(lost, self._tell)
        self._client = connection.client
        for key, attempt in list(self._under_way.items()):
            if attempt.client is not self._client:
                del self._under_way[key]
                self._repeat(attempt)

    def _cancel(self) -> None:
        futures = [attempt.future for attempt in self._under_way.values()]
        self._under_way.clear()
        with suppress(*GONE, CancelledError, ClusterError):
            if self._tools.connection.client is self._client:
                self._client.cancel(futures)


def answered(function: Callable[[Any], Any], task: object) -> Answer:
    """Runs on the worker."""
    address = get_worker().address
    try:
        return Answer(function(task), address)
    except WsiMagnetError as error:
        return Answer(error, address)


def answered_apart(function: Callable[[Any], Any], task: object) -> Answer:
    """Runs on the worker, which lives on whatever becomes of the task."""
    address = get_worker().address
    try:
        return Answer(run_apart(function, task), address)
    except WsiMagnetError as error:
        return Answer(error, address)


def _outcome(future: Future[Any]) -> Any:
    """What a task ended with, an Answer or an exception; None where that was lost."""
    with suppress(*GONE, CancelledError):
        if future.status == "finished":
            return future.result()
        if future.status == "error":
            return future.exception()
    return None
