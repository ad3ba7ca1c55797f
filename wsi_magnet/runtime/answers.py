"""What comes back from a worker: an answer with the worker's name, or how a task ended that brought none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from distributed import Future, get_worker
from distributed.protocol.pickle import dumps, loads

from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.runtime.connection import GONE
from wsi_magnet.runtime.isolation import run_isolated


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of a task: a result, or an error of ours. Dask prints the traceback of any that is raised."""

    value: Any
    worker: str


@dataclass(frozen=True, slots=True)
class Packed:
    """A function on its way to the workers: what is told with each of a million tasks is put into bytes only once."""

    name: str
    data: bytes

    @staticmethod
    def of(function: Callable[[Any], Any]) -> Packed:
        """Of any function that can be pickled."""
        name = getattr(function, "__name__", type(function).__name__)
        return Packed(name, dumps(function))

    @property
    def function(self) -> Callable[[Any], Any]:
        """The function, made once in a process."""
        return _unpacked(self.data)


@lru_cache(maxsize=256)
def _unpacked(data: bytes) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = loads(data)
    return function


def answered(packed: Packed, task: object) -> Answer:
    """Runs on the worker."""
    address = get_worker().address
    try:
        return Answer(packed.function(task), address)
    except WsiMagnetError as error:
        return Answer(error, address)


def answered_apart(packed: Packed, task: object) -> Answer:
    """Runs on the worker, which lives on whatever becomes of the task."""
    address = get_worker().address
    try:
        return Answer(run_isolated(packed.function, task), address)
    except WsiMagnetError as error:
        return Answer(error, address)


def outcome(future: Future[Any]) -> Any:
    """What a task ended with, an Answer or an exception; None where that was lost."""
    with suppress(*GONE, CancelledError):
        if future.status == "finished":
            return future.result()
        if future.status == "error":
            return future.exception()
    return None
