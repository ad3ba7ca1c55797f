"""Ctrl-C and SIGTERM: once to stop in order, twice to stop at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal sends, and what batch systems end a job with."""


NOTICE = "stopping notice"
"""Name of the thread that prints above a live bar."""

_NOTICE_S = 5.0


@contextmanager
def stopped_in_order(word: str, code: int) -> Iterator[None]:
    """Within it the first signal raises KeyboardInterrupt, and the next ends the program, with a word and a code.

    The second waits for nothing: worker processes of this machine end by themselves when the program has gone. A signal
    that is ignored stays ignored: a shell starts `command &` so, because Ctrl-C is meant for the command in front.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        if heard.is_set():
            below = "\n" if _bar_is_live() else ""
            click.echo(f"{below}Stopped at once. {word}", err=True)
            os._exit(code)
        heard.set()
        _say("Stopping; once more stops at once.")
        raise KeyboardInterrupt

    before = {one: signal.signal(one, hear) for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN}
    try:
        yield
    finally:
        for notice in [thread for thread in threading.enumerate() if thread.name == NOTICE]:
            notice.join(_NOTICE_S)  # a daemon, which would end unheard with a program that ends at once
        if not heard.is_set():  # else the program is on its way out, and may be told to hurry until it has gone
            for one, handler in before.items():
                signal.signal(one, handler)


def _bar_is_live() -> bool:
    return hasattr(sys.stderr, "rich_proxied_file")


def _say(text: str) -> None:
    """A line that stays. Above a live bar it is Rich that must print it, which takes locks that may be held right here;
    so a thread does that, and they are let go of as KeyboardInterrupt passes.
    """
    if not _bar_is_live():
        click.echo(text, err=True)
        return
    printing = {"file": sys.stderr, "flush": True}
    threading.Thread(target=print, args=(text,), kwargs=printing, name=NOTICE, daemon=True).start()
