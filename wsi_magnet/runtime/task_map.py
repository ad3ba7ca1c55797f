"""A fault-tolerant map of a function over tasks on Dask workers.

A task may fail on one worker (a slide that it cannot see), kill its worker, hang, or be lost with its worker or its
scheduler. These cases are distinguished here, and the task is tried again where that can help.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, islice
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, KilledWorker, get_worker
from distributed.protocol.pickle import dumps, loads

from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.runtime.connection import GONE, Connection
from wsi_magnet.runtime.isolation import ProcessDied, run_isolated
from wsi_magnet.runtime.types import Notify

TASKS_PER_SLOT = 2
"""Tasks in flight for each thread of a worker: one that runs and one that waits, so that no worker waits for the
client."""

LEAST_IN_FLIGHT = 8

POLL_S = 5.0
"""Time without a result after which a map checks that there are still workers."""

STUCK_S, STUCK_TIMES = 600.0, 10
"""A task that a worker has had for so long, and so many times as long as any other took, is started on another worker
as well: a file system that hangs does not stop the worker's heartbeat."""

TRIES = 3
"""Workers on which a task may fail before its error is taken to be the task's own."""


@dataclass(frozen=True, slots=True)
class MapContext:
    """State that all maps of an executor share."""

    connection: Connection
    resources: dict[str, int] | None
    """Dask resources that a worker must have."""
    numbers: count[int]
    isolation_lock: threading.Lock
    """Held by the map that runs a quarantined task: one at a time."""
    no_workers_s: float
    """Time without any worker before a map fails."""
    on_poll: Callable[[], object]
    """Called every few seconds."""
    workers_pending: Callable[[], bool]
    """True if workers are expected though none is there."""


@dataclass(eq=False, slots=True)
class TaskState:
    """A task and its history, however many attempts it takes."""

    task: Any
    errors: dict[str, WsiMagnetError] = field(default_factory=dict)
    """By the address of the worker on which it failed."""
    retried: bool = False
    """A second worker computes the task because `retry_if` rejected the first one's result."""
    speculative: bool = False
    """A second attempt is in flight because the first one does not end."""
    isolated: bool = False
    """It runs by itself, in a process of its own."""
    settled: bool = False
    """It has its result, or is quarantined."""


@dataclass(frozen=True, eq=False, slots=True)
class Attempt:
    """A task submitted to Dask."""

    state: TaskState
    client: Client
    future: Future[Any]
    workers: frozenset[str] | None
    """The only workers that may run it; None: any."""
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Answer:
    """A result, or a WsiMagnetError: Dask would print the traceback of one that is raised."""

    value: Any
    worker: str


@dataclass(frozen=True, slots=True)
class PickledFunction:
    """A function in bytes, pickled once for all tasks of a map."""

    name: str
    data: bytes

    @staticmethod
    def of(function: Callable[[Any], Any]) -> PickledFunction:
        """Pickle a function."""
        return PickledFunction(getattr(function, "__name__", type(function).__name__), dumps(function))

    @property
    def function(self) -> Callable[[Any], Any]:
        """The function, unpickled once in a process."""
        return _unpickled(self.data)


@lru_cache(maxsize=256)
def _unpickled(data: bytes) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = loads(data)
    return function


def run_on_worker(pickled: PickledFunction, task: object, isolated: bool) -> Answer:
    """Run a task on a worker, in a subprocess if `isolated`: then the worker survives whatever the task does."""
    address = get_worker().address
    try:
        return Answer(run_isolated(pickled.function, task) if isolated else pickled.function(task), address)
    except WsiMagnetError as error:
        return Answer(error, address)


class TaskMap:
    """A function over tasks; used once."""

    def __init__(
        self,
        context: MapContext,
        priority: int,
        function: Callable[[Any], Any],
        on_lost: Callable[[Any, str], Any] | None,
        retry_if: Callable[[Any], bool] | None,
        notify: Notify,
    ) -> None:
        self._context, self._on_lost, self._retry_if, self._notify = context, on_lost, retry_if, notify
        self._in_flight = InFlight(context, function, priority)
        self._quarantined: list[Any] = []
        self._excluded: set[str] = set()
        """Workers on which a task failed that succeeded on another."""
        self._no_workers_since: float | None = None
        self._longest_s: float | None = None
        """The longest time that any task took from its submission."""

    def run(self, tasks: Iterable[Any]) -> Generator[Any, None, None]:
        """Yield the results as they come; tasks in flight are cancelled when the iterator is closed."""
        waiting = iter(tasks)
        try:
            self._fill(waiting)
            while self._in_flight:
                yield from self._results()
                self._fill(waiting)
            for task in self._quarantined:
                with self._context.isolation_lock:
                    self._start(TaskState(task, isolated=True))
                    while self._in_flight:
                        yield from self._results()
        finally:
            self._in_flight.cancel(self._in_flight.take(lambda _: True))

    def _fill(self, waiting: Iterator[Any]) -> None:
        """Keep as many tasks in flight as the workers need."""
        room = max(TASKS_PER_SLOT * sum(self._workers().values()), LEAST_IN_FLIGHT)
        for task in islice(waiting, max(0, room - len(self._in_flight))):
            self._start(TaskState(task))

    def _workers(self) -> dict[str, int]:
        """Threads by worker; waits for the scheduler if it is gone."""
        while True:
            client = self._context.connection.client
            try:
                return self._context.connection.workers()
            except GONE:
                self._recover(client)

    def _start(self, state: TaskState) -> None:
        """Submit a task to any worker that is not excluded."""
        fit = frozenset(self._workers().keys() - self._excluded) if self._excluded else None
        self._in_flight.submit(state, fit or None)

    def _results(self) -> Iterator[Any]:
        """Wait until an attempt has ended, and yield the results there are; there may be none yet."""
        while not (ended := self._in_flight.wait(POLL_S)):
            self._context.on_poll()
            self._check_workers()
        self._context.on_poll()
        self._no_workers_since = None
        for attempt, outcome in zip(ended, _outcomes(ended), strict=True):
            if not attempt.state.settled:
                yield from self._settle(attempt, outcome)

    def _check_workers(self) -> None:
        """Act on a time without results. Raises ClusterError if no worker has been there for too long."""
        workers = self._workers()
        with suppress(*GONE, CancelledError):
            self._speculate(workers.keys())
        for attempt in self._in_flight.take(lambda one: one.workers is not None and not one.workers & workers.keys()):
            self._start(attempt.state)
        if workers or self._context.workers_pending():
            self._no_workers_since = None
            return
        since = self._no_workers_since = self._no_workers_since or time.monotonic()
        if time.monotonic() - since > self._context.no_workers_s:
            raise ClusterError(
                f"no worker has been there for {self._context.no_workers_s:.0f} s; "
                "start some and run the same command again"
            )

    def _speculate(self, workers: Iterable[str]) -> None:
        """Start a second attempt at each task that takes far longer than the others."""
        if self._longest_s is None:
            return
        limit_s = max(STUCK_S, STUCK_TIMES * self._longest_s)

        def stuck(attempt: Attempt) -> bool:
            return not attempt.state.speculative and time.monotonic() - attempt.started > limit_s

        for attempt, worker in list(self._in_flight.with_workers(stuck)):
            if others := frozenset(workers) - {worker} - self._excluded:
                attempt.state.speculative = True
                self._notify(f"the worker {worker} has had a tile for {limit_s:.0f} s; another worker starts it too")
                self._in_flight.submit(attempt.state, others)

    def _settle(self, attempt: Attempt, outcome: Any) -> Iterator[Any]:
        """Yield the result of an attempt that has ended, unless its task must be tried again."""
        state = attempt.state
        match outcome:
            case Answer(ProcessDied() as died, _):
                yield self._given_up(state, f"by itself in a process of its own, {died}")
            case Answer(WsiMagnetError() as error, worker):
                self._failed(state, worker, error)
            case Answer(value, worker):
                self._longest_s = max(self._longest_s or 0.0, time.monotonic() - attempt.started)
                self._exclude_workers_of(state)
                if not self._retried(state, value, worker):
                    yield self._settled(state, value)
            case KilledWorker():
                yield from self._killed(state)
            case Exception() as error:
                raise error
            case _:  # a result that was lost with the worker that had it, or all with the scheduler
                if attempt.future.status == "cancelled":
                    self._recover(attempt.client)
                self._start(state)

    def _settled(self, state: TaskState, value: Any) -> Any:
        state.settled = True
        if state.speculative:
            self._in_flight.cancel(self._in_flight.take(lambda one: one.state is state))
        return value

    def _retried(self, state: TaskState, value: Any, worker: str) -> bool:
        """Ask another worker for a result that `retry_if` rejects, once; False if there is nothing to retry."""
        if self._retry_if is None or state.retried or not self._retry_if(value):
            return False
        state.retried = True
        return self._start_elsewhere(state, {worker})

    def _killed(self, state: TaskState) -> Iterator[Any]:
        """Quarantine a task whose workers died: Dask blames every task that they had, so each runs alone at the end."""
        if state.isolated:
            yield self._given_up(state, "every worker that took it died")
            return
        state.settled = True
        self._notify("workers that had a tile died again and again; it will be tried by itself, in its own process")
        self._quarantined.append(state.task)

    def _given_up(self, state: TaskState, how: str) -> Any:
        reason = f"no worker survived it; {how}"
        if self._on_lost is not None:
            return self._settled(state, self._on_lost(state.task, reason))
        raise ClusterError(
            f"a task cannot be done: {reason}; give each worker more memory or pass fewer --workers, "
            "and run the same command again"
        )

    def _failed(self, state: TaskState, worker: str, error: WsiMagnetError) -> None:
        """Try a failed task on another worker. Raises the error if none is left."""
        state.errors[worker] = error
        if len(state.errors) >= TRIES or not self._start_elsewhere(state, set(state.errors)):
            raise error

    def _exclude_workers_of(self, state: TaskState) -> None:
        """A task that succeeded elsewhere proves the workers faulty on which it failed: exclude them from this map."""
        for worker, error in state.errors.items():
            if worker not in self._excluded:
                self._excluded.add(worker)
                self._notify(f"{error}; the worker {worker} is excluded, and others do its work")

    def _start_elsewhere(self, state: TaskState, not_on: set[str]) -> bool:
        """Submit a task to another worker; False if there is none."""
        workers = self._workers().keys() - not_on - self._excluded
        if workers:
            self._in_flight.submit(state, frozenset(workers))
        return bool(workers)

    def _recover(self, lost: Client) -> None:
        """Reconnect after the client `lost` has failed, and submit again the tasks that were lost with it."""
        connection = self._context.connection
        if connection.client is lost:
            connection.renew(lost, self._notify)
        for attempt in self._in_flight.take(lambda one: one.client is not connection.client):
            self._in_flight.submit(attempt.state)


class InFlight:
    """The attempts of one map that have not ended, by their Dask keys."""

    def __init__(self, context: MapContext, function: Callable[[Any], Any], priority: int) -> None:
        self._context, self._function, self._priority = context, PickledFunction.of(function), priority
        self._attempts: dict[str, Attempt] = {}
        self._ended: SimpleQueue[str] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._attempts)

    def submit(self, state: TaskState, workers: frozenset[str] | None = None) -> None:
        """Start an attempt at a task, on any worker or on one of these."""
        client = self._context.connection.client
        # A key of our own: tasks have effects, so two equal ones of two runs must never be taken for the same work.
        key = f"{self._function.name}-{client.id}-{next(self._context.numbers)}"
        future = client.submit(
            run_on_worker,
            self._function,
            state.task,
            state.isolated,
            key=key,
            pure=False,
            priority=self._priority,
            resources=self._context.resources,
            workers=None if workers is None else sorted(workers),
        )
        self._attempts[key] = Attempt(state, client, future, workers)
        future.add_done_callback(lambda _: self._ended.put(key))

    def wait(self, timeout_s: float) -> list[Attempt]:
        """Remove and return the attempts that have ended; none if none ends within `timeout_s`."""
        with suppress(Empty):
            keys = [self._ended.get(timeout=timeout_s)]
            while not self._ended.empty():
                keys.append(self._ended.get())
            return [self._attempts.pop(key) for key in keys if key in self._attempts]
        return []

    def take(self, wanted: Callable[[Attempt], bool]) -> list[Attempt]:
        """Remove and return the attempts for which `wanted` is true; their results are ignored."""
        keys = [key for key, attempt in self._attempts.items() if wanted(attempt)]
        return [self._attempts.pop(key) for key in keys]

    def with_workers(self, wanted: Callable[[Attempt], bool]) -> Iterator[tuple[Attempt, str]]:
        """Yield the attempts that are `wanted` and that a worker has, with the worker. Raises one of `GONE`."""
        keys = {key for key, attempt in self._attempts.items() if wanted(attempt)}
        if not keys:
            return
        for worker, processing in self._context.connection.client.processing().items():
            for key in sorted(keys & set(map(str, processing))):
                yield self._attempts[key], worker

    def cancel(self, attempts: list[Attempt]) -> None:
        """Cancel attempts; where the scheduler is gone there is nothing to cancel."""
        with suppress(*GONE, CancelledError, ClusterError):
            client = self._context.connection.client
            if client.status == "running":
                client.cancel([attempt.future for attempt in attempts if attempt.client is client])


def _outcomes(ended: list[Attempt]) -> list[Any]:
    """An Answer for each attempt, or the exception that ended it; None where that was lost."""
    futures = [attempt.future for attempt in ended]
    if all(future.status == "finished" for future in futures):
        with suppress(Exception):  # one of them is no longer there: then ask for each by itself
            return list(ended[0].client.gather(futures))
    return [_outcome(future) for future in futures]


def _outcome(future: Future[Any]) -> Any:
    with suppress(*GONE, CancelledError):
        if future.status == "finished":
            return future.result()
        if future.status == "error":
            return future.exception()
    return None
