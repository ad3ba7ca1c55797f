"""Ctrl-C for the coordinating process alone: a terminal sends SIGINT to every process of a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def children_ignore_ctrl_c() -> Iterator[None]:
    """Block SIGINT in threads that are started within, and so in all processes that these start.

    This program handles a SIGINT or SIGTERM that came within afterwards: else workers would be left half started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _deferred():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _deferred() -> Iterator[None]:
    """Call this program's handlers of Ctrl-C and SIGTERM afterwards: SIGTERM is not blocked, for the processes' sake,
    and another thread, which has Ctrl-C not blocked, may receive it for this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {one: own for one in (signal.SIGINT, signal.SIGTERM) if callable(own := signal.getsignal(one))}
    for one in before:
        signal.signal(one, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for one, own in before.items():
            signal.signal(one, own)
        if received:
            signal.raise_signal(received[0])


@contextmanager
def keep_sigint_handler() -> Iterator[None]:
    """Restore the handler of SIGINT afterwards."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGINT, before)
