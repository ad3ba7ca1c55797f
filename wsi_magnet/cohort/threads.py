"""Threads that each process one slide after the other until the batch ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

from wsi_magnet.cohort.events import SlideEnded
from wsi_magnet.cohort.planning import Planned

RECHECK_S = 10.0
"""Time without a result after which more threads are started if more slides may be in flight."""


class Stopped(BaseException):
    """Raised in a slide's run when its batch has ended; not an Exception, so that no handler blames the slide."""


class SlideThreads:
    """Daemon threads, one slide each at a time: a hung one does not block the program's exit."""

    def __init__(self, segment: Callable[[Planned], SlideEnded], stopping: threading.Event) -> None:
        """segment: processes a slide; an error that it raises ends the batch. stopping: set when the batch ends."""
        self._segment, self._stopping = segment, stopping
        self._results: SimpleQueue[SlideEnded | BaseException | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def run(self, slides: Sequence[Planned], in_flight: Callable[[], int]) -> Iterator[SlideEnded]:
        """Yield slides as they end. Raises the error that ends the batch.

        in_flight: greatest number of slides at once; called again and again, since workers may come over hours.
        """
        waiting = iter(slides)
        working = self._start(waiting, min(in_flight(), len(slides)))
        while working:
            try:
                result = self._results.get(timeout=RECHECK_S)
            except Empty:
                working += self._start(waiting, min(in_flight(), len(slides)) - len(self._threads))
                continue
            if isinstance(result, BaseException):
                raise result
            if result is None:
                working -= 1
            else:
                yield result

    def _start(self, waiting: Iterator[Planned], count: int) -> int:
        """Start more threads; returns their number."""
        started = [
            threading.Thread(target=self._work, args=(waiting,), name=f"slide-{len(self._threads) + i}", daemon=True)
            for i in range(count)
        ]
        self._threads += started
        for thread in started:
            thread.start()
        return len(started)

    def stop(self) -> None:
        """Start no other slide, and stop those in flight at their next tile."""
        self._stopping.set()

    def drain(self, timeout_s: float) -> Iterator[SlideEnded]:
        """After `stop`: yield the slides that have ended since, once all threads have, or after the timeout."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        while True:
            try:
                result = self._results.get_nowait()
            except Empty:
                return
            if isinstance(result, SlideEnded):
                yield result

    def _work(self, waiting: Iterator[Planned]) -> None:
        try:
            while (planned := self._next(waiting)) is not None:
                self._results.put(self._segment(planned))
        except BaseException as error:
            self._results.put(error)
        finally:
            self._results.put(None)

    def _next(self, waiting: Iterator[Planned]) -> Planned | None:
        with self._lock:
            return None if self._stopping.is_set() else next(waiting, None)
