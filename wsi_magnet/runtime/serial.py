"""One task after the other in the calling thread: for debugging, and as the twin that Dask is tested against."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.runtime.types import Executor, Notify, Result, SchedulerInfo, Task, WorkerInfo


class SerialExecutor:
    """The simplest executor."""

    description = "this thread"
    device = "auto"
    dashboard: str | None = None
    slots = 1

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        on_lost: Callable[[Task, str], Result] | None = None,
        retry_if: Callable[[Result], bool] | None = None,
        notify: Notify | None = None,
    ) -> Generator[Result, None, None]:
        """Run each task when its result is requested. There is no other worker, and a crash ends the program."""
        for task in tasks:
            yield function(task)

    def with_priority(self, priority: int) -> Executor:
        """The same executor: tasks run in order in any case."""
        return self

    def on_each_worker(
        self, function: Callable[[Task], Result], task: Task, *, timeout_s: float = 60.0
    ) -> dict[str, Result | WsiMagnetError]:
        """The result of the only worker."""
        try:
            return {self.description: function(task)}
        except WsiMagnetError as error:
            return {self.description: error}

    def scheduler_info(self) -> SchedulerInfo:
        """One worker: the calling thread."""
        return SchedulerInfo({}, {self.description: WorkerInfo(self.description, 1, {}, None, 0.0)})

    def close(self) -> None:
        """Do nothing: no worker was started."""
