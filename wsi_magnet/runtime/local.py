"""One task after the other in the calling thread: for debugging, and as the twin that Dask is tested against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from wsi_magnet.runtime.types import Result, Task


class SerialExecutor:
    """The simplest executor."""

    description = "this thread"
    dashboard: str | None = None

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Run each task when its result is asked for."""
        for task in tasks:
            yield function(task)

    def close(self) -> None:
        """Nothing to let go of."""
