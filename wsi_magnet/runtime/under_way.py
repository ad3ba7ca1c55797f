"""What a map has under way: tasks submitted to Dask, and those of them that have ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future

from wsi_magnet.errors import ClusterError, WsiMagnetError
from wsi_magnet.runtime.answers import Packed, answered, answered_apart
from wsi_magnet.runtime.connection import GONE, Connection


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
    """How long nobody may be there to work."""
    tend: Callable[[], object]
    """Called every few seconds."""
    coming: Callable[[], bool]
    """Whether workers are on their way though none is there."""


@dataclass(eq=False, slots=True)
class Case:
    """A task and what is known of it, however often it is begun."""

    task: Any
    refusals: dict[str, WsiMagnetError] = field(default_factory=dict)
    """By the address of the worker."""
    looked_again: bool = False
    """A second worker has been asked, because the first one's result was not good."""
    doubled: bool = False
    """It is under way twice, because the first worker does not come to an end."""
    alone: bool = False
    """It is tried by itself, in a process of its own."""
    settled: bool = False
    """It has its result."""


@dataclass(frozen=True, eq=False, slots=True)
class Attempt:
    """A case that a worker has, or will have."""

    case: Case
    client: Client
    future: Future[Any]
    workers: frozenset[str] | None
    """The only ones that may do it; None: any."""
    begun: float = field(default_factory=time.monotonic)


class UnderWay:
    """The attempts of one map, by the key that Dask knows them by."""

    def __init__(self, tools: Tools, function: Callable[[Any], Any], rank: int) -> None:
        self._tools, self._function, self._rank = tools, Packed.of(function), rank
        self._attempts: dict[str, Attempt] = {}
        self._ended: SimpleQueue[str] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._attempts)

    def submit(self, case: Case, workers: frozenset[str] | None = None) -> None:
        """Begin a case, on any worker or on one of these."""
        client = self._tools.connection.client
        # A key of our own: tasks have effects, so two equal ones of two runs must never be taken for the same work.
        name = f"{self._function.name}-{client.id}-{next(self._tools.numbers)}"
        future = client.submit(
            answered_apart if case.alone else answered,
            self._function,
            case.task,
            key=name,
            pure=False,
            priority=-self._rank,
            resources=self._tools.resources,
            workers=None if workers is None else sorted(workers),
        )
        self._attempts[name] = Attempt(case, client, future, workers)
        future.add_done_callback(lambda _: self._ended.put(name))

    def wait(self, timeout_s: float) -> list[Attempt]:
        """Those that have ended since, no longer under way; none where nothing was heard for so long."""
        with suppress(Empty):
            names = [self._ended.get(timeout=timeout_s)]
            while not self._ended.empty():
                names.append(self._ended.get())
            return [self._attempts.pop(name) for name in names if name in self._attempts]
        return []

    def take(self, unwanted: Callable[[Attempt], bool]) -> list[Attempt]:
        """Those of which that is true, no longer under way; whatever comes of them is not heard."""
        names = [name for name, attempt in self._attempts.items() if unwanted(attempt)]
        return [self._attempts.pop(name) for name in names]

    def with_their_workers(self, wanted: Callable[[Attempt], bool]) -> Iterator[tuple[Attempt, str]]:
        """Those of which that is true and that a worker has, with the worker. Raises one of `GONE`."""
        names = {name for name, attempt in self._attempts.items() if wanted(attempt)}
        if not names:
            return
        for worker, keys in self._tools.connection.client.processing().items():
            for name in sorted(names & set(map(str, keys))):
                yield self._attempts[name], worker

    def cancel(self, attempts: list[Attempt]) -> None:
        """Nobody wants these any more. Where the scheduler is gone there is nothing to be cancelled."""
        with suppress(*GONE, CancelledError, ClusterError):
            client = self._tools.connection.client
            if client.status == "running":
                client.cancel([attempt.future for attempt in attempts if attempt.client is client])
