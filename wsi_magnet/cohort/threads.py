"""Threads that take one slide after the other, and end when the batch does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

from wsi_magnet.cohort.events import SlideEnded
from wsi_magnet.cohort.planning import Planned

ASK_AGAIN_S = 10.0
"""Where nothing has ended for so long, it is asked whether more slides may be in flight."""


class Stopped(BaseException):
    """Raised within a slide's run whose batch has ended; no Exception, so that nobody takes it for the slide's."""


class Crew:
    """The threads of a batch. Daemons: one that hangs keeps nobody from leaving the program."""

    def __init__(self, do: Callable[[Planned], SlideEnded], stopping: threading.Event) -> None:
        """do: takes a slide to its end; what it raises ends the batch. stopping: set here when the batch ends."""
        self._do, self._stopping = do, stopping
        self._news: SimpleQueue[SlideEnded | BaseException | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def run(self, slides: Sequence[Planned], at_once: Callable[[], int]) -> Iterator[SlideEnded]:
        """Slides as they end. Raises what ends the batch.

        at_once: how many may be in flight; asked again now and then, since workers may come in the course of hours.
        """
        waiting = iter(slides)
        working = self._hire(waiting, min(at_once(), len(slides)))
        while working:
            try:
                news = self._news.get(timeout=ASK_AGAIN_S)
            except Empty:
                working += self._hire(waiting, min(at_once(), len(slides)) - len(self._threads))
                continue
            if isinstance(news, BaseException):
                raise news
            if news is None:
                working -= 1
            else:
                yield news

    def _hire(self, waiting: Iterator[Planned], count: int) -> int:
        """Begin with so many threads more; returns their number."""
        hired = [
            threading.Thread(target=self._work, args=(waiting,), name=f"slide-{len(self._threads) + i}", daemon=True)
            for i in range(count)
        ]
        self._threads += hired
        for thread in hired:
            thread.start()
        return len(hired)

    def stop(self) -> None:
        """Begin with no other slide, and leave those in flight at their next tile."""
        self._stopping.set()

    def last(self, patience_s: float) -> Iterator[SlideEnded]:
        """After `stop`: slides that have ended since, once the threads have gone or patience has."""
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        while True:
            try:
                news = self._news.get_nowait()
            except Empty:
                return
            if isinstance(news, SlideEnded):
                yield news

    def _work(self, waiting: Iterator[Planned]) -> None:
        try:
            while (planned := self._next(waiting)) is not None:
                self._news.put(self._do(planned))
        except BaseException as error:
            self._news.put(error)
        finally:
            self._news.put(None)

    def _next(self, waiting: Iterator[Planned]) -> Planned | None:
        with self._lock:
            return None if self._stopping.is_set() else next(waiting, None)
