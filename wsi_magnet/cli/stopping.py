"""Ctrl-C and SIGTERM: the first stops in order, the second at once, as any does while modules are imported."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The signal of a terminal, and the one with which batch systems end a job."""


NOTICE = "stopping notice"
"""Name of the thread that prints above a live bar."""

_NOTICE_S = 5.0


@contextmanager
def stopped_in_order(message: Callable[[], str], code: int) -> Iterator[None]:
    """Context in which the first signal raises KeyboardInterrupt with a message, and the next prints it and exits with
    a code.

    The second waits for nothing: worker processes of this machine end when the program has gone. An ignored signal
    stays ignored: a shell starts `command &` so, because Ctrl-C is meant for the command in the foreground.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signalled = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if signalled.is_set():
            below = "\n" if _bar_is_live() else ""
            click.echo(f"{below}Stopped at once. {message()}", err=True)
            os._exit(code)
        signalled.set()
        _print_notice("Stopping; a second Ctrl-C stops at once.")
        raise KeyboardInterrupt(message())

    before = {one: signal.signal(one, handle) for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN}
    try:
        yield
    finally:
        for notice in [thread for thread in threading.enumerate() if thread.name == NOTICE]:
            notice.join(_NOTICE_S)  # a daemon: its text would be lost in a program that ends at once
        if not signalled.is_set():  # otherwise the program is ending, and a second signal may still come
            for one, handler in before.items():
                signal.signal(one, handler)


@contextmanager
def importing(message: str, code: int) -> Iterator[None]:
    """Context of imports, in which a signal prints a message and exits with a code at once. From then on SIGTERM, with
    which batch systems end a job, is handled like Ctrl-C.

    Nothing is lost by it, and libraries swallow a KeyboardInterrupt that is raised in the middle of their import.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        click.echo(f"Stopped. {message}", err=True)
        os._exit(code)

    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _bar_is_live() -> bool:
    return hasattr(sys.stderr, "rich_proxied_file")


def _print_notice(text: str) -> None:
    """Print a line that stays.

    Above a live bar Rich must print it, and takes locks that the interrupted code may hold: so a thread prints, and
    gets the locks when KeyboardInterrupt has left that code.
    """
    if not _bar_is_live():
        click.echo(text, err=True)
        return
    printing = {"file": sys.stderr, "flush": True}
    threading.Thread(target=print, args=(text,), kwargs=printing, name=NOTICE, daemon=True).start()
