"""Who hears Ctrl-C: a terminal sends it to every process, and only the one that coordinates is to act on it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def children_deaf() -> Iterator[None]:
    """Threads that are started within it, and processes that these start at any time, never hear Ctrl-C.

    The program itself hears it afterwards: within, workers would be left half started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _put_off():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _put_off() -> Iterator[None]:
    """Act on Ctrl-C afterwards: another thread, which has it not blocked, may take it for this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = threading.Event()
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard.is_set():
            signal.raise_signal(signal.SIGINT)


@contextmanager
def same_ctrl_c() -> Iterator[None]:
    """Whatever is done within, Ctrl-C does afterwards what it did before."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGINT, before)
