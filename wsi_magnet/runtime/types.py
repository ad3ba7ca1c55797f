"""The executor protocol: hand tasks out, get results back, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a function over tasks somewhere."""

    description: str
    """For people: where the work is done."""
    dashboard: str | None
    """Address of a page that shows the work, where there is one."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results as they come, in any order.

        `tasks` is consumed lazily and only a bounded number is under way, so it may be as long as it likes. A function
        may run more than once for a task if a worker dies: it must be idempotent. Its errors are raised here; then no
        new task is begun. Raises ClusterError if the workers are lost.
        """
        ...

    def close(self) -> None:
        """Let go of the workers that it started."""
        ...
