"""Ctrl-C and SIGTERM in a training: raised at once where no state is lost, else at the next point to resume from."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopTraining(KeyboardInterrupt):
    """A training is to stop, at a point from which it can be resumed."""


class StopRequest:
    """A request to stop a stage, as made by a signal."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._at_once = False

    @property
    def made(self) -> bool:
        """True from the request on."""
        return self._requested.is_set()

    def check(self) -> None:
        """Raise StopTraining if there is a request."""
        if self.made:
            raise StopTraining

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Context for work that may be left at any point: a request raises StopTraining in it at once."""
        try:
            self._at_once = True
            self.check()
            yield
        finally:
            self._at_once = False

    @contextmanager
    def on_signals(self, what: str) -> Iterator[None]:
        """Context in which a signal that would raise KeyboardInterrupt makes the request; a second one raises at once.

        On leaving, it raises KeyboardInterrupt if there is a request. It has no effect outside the main thread, which
        alone receives signals, nor on signals with another handler. what: name in the log.
        """
        self._requested.clear()

        def ask(number: int, frame: FrameType | None) -> None:
            if self.made:
                raise KeyboardInterrupt
            self._requested.set()
            log.info("stopping %s and saving its state; a second Ctrl-C stops at once", what)
            if self._at_once:
                raise StopTraining

        main = threading.current_thread() is threading.main_thread()
        handled = [one for one in SIGNALS if main and signal.getsignal(one) is signal.default_int_handler]
        for one in handled:
            signal.signal(one, ask)
        try:
            yield
        finally:
            for one in handled:
                signal.signal(one, signal.default_int_handler)
        if self.made:
            raise KeyboardInterrupt
