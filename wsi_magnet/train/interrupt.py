"""Ctrl-C between two steps: what is asked for during a step is done after it, when all that it changes fits."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupt_later(what: str) -> Iterator[threading.Event]:
    """Within it, a signal that would raise KeyboardInterrupt sets the event instead; a second one raises at once.

    Left by its end, it raises KeyboardInterrupt where the event is set. Outside the main thread, which alone hears
    signals, nothing changes; nor for a signal that is handled in another way. what: named in the log.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        log.info("%s stops after this step; once more to stop at once", what)

    main = threading.current_thread() is threading.main_thread()
    heard = [one for one in SIGNALS if main and signal.getsignal(one) is signal.default_int_handler]
    for one in heard:
        signal.signal(one, ask)
    try:
        yield asked
    finally:
        for one in heard:
            signal.signal(one, signal.default_int_handler)
    if asked.is_set():
        raise KeyboardInterrupt
