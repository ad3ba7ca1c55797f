"""The executor protocol: hand tasks out, get results back, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from wsi_magnet.errors import WsiMagnetError

Task = TypeVar("Task")
Result = TypeVar("Result")

Notify = Callable[[str], None]
"""Takes a line for people about what went wrong and is being mended: a worker passed over, a scheduler gone."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as its scheduler knows it."""

    name: str
    threads: int
    resources: Mapping[str, float]
    memory_limit_bytes: int | None
    """That Dask was told of; None without one."""
    unheard_s: float
    """How long ago its scheduler heard of it."""


@dataclass(frozen=True, slots=True)
class SchedulerInfo:
    """Who is there."""

    scheduler_versions: Mapping[str, str]
    """By package: those of which the scheduler tells."""
    members: Mapping[str, WorkerInfo]
    """By address."""


class Executor(Protocol):
    """Runs a function over tasks somewhere."""

    description: str
    """For people: where the work is done."""
    device: str
    """What the tasks are to compute on, as `Execution.device`."""
    dashboard: str | None
    """Address of a page that shows the work, where there is one."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        lost: Callable[[Task, str], Result] | None = None,
        again: Callable[[Result], bool] | None = None,
        tell: Notify | None = None,
    ) -> Iterator[Result]:
        """Yield the results as they come, in any order; several threads may each have a map of their own.

        `tasks` is consumed lazily and only a bounded number is under way, so it may be as long as it likes. A function
        may run more than once for a task if a worker dies: it must be idempotent. A task that fails with an error of
        ours is tried on other workers before the error is raised here; then no new task is begun. One whose result is
        worth another look, as `again` says, is tried once on another worker, where there is one. One that kills
        whatever process takes it becomes the result that `lost` makes of it and of the reason, here in the caller.
        Raises ClusterError if the workers are lost, or for such a task where `lost` is not given.
        """
        ...

    def ranked(self, rank: int) -> Executor:
        """The same workers, for tasks that are begun before those of a higher rank; closed with the first."""
        ...

    @property
    def slots(self) -> int:
        """Tasks that can run at once, now."""
        ...

    def everywhere(
        self, function: Callable[[Task], Result], task: Task, *, patience_s: float = 60.0
    ) -> dict[str, Result | WsiMagnetError]:
        """What a function answers on each worker, by the worker's name; our own errors are answers too.

        A worker that says nothing for `patience_s` answers with a ClusterError that says so.
        Raises ClusterError if the workers are lost.
        """
        ...

    def scheduler_info(self) -> SchedulerInfo:
        """The workers that are there now. Raises ClusterError if their scheduler is not."""
        ...

    def close(self) -> None:
        """Let go of the workers that it started."""
        ...
