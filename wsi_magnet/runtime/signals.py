"""Who hears Ctrl-C: a terminal sends it to every process, and only the one that coordinates is to act on it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def children_deaf() -> Iterator[None]:
    """Threads that are started within it, and processes that these start at any time, never hear Ctrl-C.

    This thread hears it afterwards: within, workers would be left half started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
