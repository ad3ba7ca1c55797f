"""The executor protocol: a map over tasks whose results come in any order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.values import documented

Task = TypeVar("Task")
Result = TypeVar("Result")

Notify = Callable[[str], None]
"""Takes a line for people about a fault that is being handled: a worker excluded, a scheduler gone."""


@documented
@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as its scheduler describes it."""

    name: str
    """Name that its scheduler gave it."""
    threads: int
    """Tasks that it runs at once."""
    resources: Mapping[str, float]
    """Dask's resources by name, such as one of its GPU."""
    memory_limit_bytes: int | None
    """Dask's limit; None without one."""
    unheard_s: float
    """Seconds since its last heartbeat."""


@documented
@dataclass(frozen=True, slots=True)
class SchedulerInfo:
    """A scheduler and its workers."""

    scheduler_versions: Mapping[str, str]
    """Versions of the packages that the scheduler reports, by name."""
    workers: Mapping[str, WorkerInfo]
    """Workers by address."""


class Executor(Protocol):
    """Runs a function over tasks on some workers."""

    description: str
    """The workers, for people."""
    device: str
    """Device that the tasks are to compute on, as `Execution.device`."""
    dashboard: str | None
    """Address of Dask's dashboard; None without one."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        on_lost: Callable[[Task, str], Result] | None = None,
        retry_if: Callable[[Result], bool] | None = None,
        notify: Notify | None = None,
    ) -> Generator[Result, None, None]:
        """Yield the results as they come, in any order; several threads may each have a map of their own.

        `tasks` is consumed lazily and only a bounded number is in flight, so it may be of any length. A function may
        run more than once for a task if a worker dies: it must be idempotent. Close the iterator to cancel the tasks
        in flight. A task that fails with a WsiMagnetError is tried on other workers before the error is raised here;
        then no new task is started. A result for which `retry_if` is true is computed once more, on another worker if
        there is one. A task that kills every process that runs it gets the result of `on_lost(task, reason)`, called
        here. notify: takes a line for people about each fault that is handled.
        Raises ClusterError if all workers are lost, or for a task that kills its workers if `on_lost` is not given.
        """
        ...

    def with_priority(self, priority: int) -> Executor:
        """The same workers, for tasks that start before those of a lower priority; 0 is the default.

        Closed with the executor that it comes from.
        """
        ...

    @property
    def slots(self) -> int:
        """Tasks that can run at once, now."""
        ...

    def on_each_worker(
        self, function: Callable[[Task], Result], task: Task, *, timeout_s: float = 60.0
    ) -> dict[str, Result | WsiMagnetError]:
        """The result of a function on each worker, by the worker's address; a WsiMagnetError is returned as a result.

        A worker that does not answer within `timeout_s` has a ClusterError as its result.
        Raises ClusterError if all workers are lost.
        """
        ...

    def scheduler_info(self) -> SchedulerInfo:
        """The current workers. Raises ClusterError if the scheduler is gone."""
        ...

    def close(self) -> None:
        """Stop the workers that were started for this executor."""
        ...
