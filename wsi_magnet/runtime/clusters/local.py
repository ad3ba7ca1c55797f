"""One task after the other in the calling thread: for debugging, and as the twin that Dask is tested against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

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
        lost: Callable[[Task, str], Result] | None = None,
        again: Callable[[Result], bool] | None = None,
        tell: Notify | None = None,
    ) -> Iterator[Result]:
        """Run each task when its result is asked for. There is nobody else to try it, or to tell that it killed us."""
        for task in tasks:
            yield function(task)

    def ranked(self, rank: int) -> Executor:
        """One after the other in any case."""
        return self

    def everywhere(
        self, function: Callable[[Task], Result], task: Task, *, patience_s: float = 60.0
    ) -> dict[str, Result | WsiMagnetError]:
        """The answer of the only worker there is."""
        try:
            return {self.description: function(task)}
        except WsiMagnetError as error:
            return {self.description: error}

    def scheduler_info(self) -> SchedulerInfo:
        """Only this thread."""
        return SchedulerInfo({}, {self.description: WorkerInfo(self.description, 1, {}, None, 0.0)})

    def close(self) -> None:
        """Nothing to let go of."""
