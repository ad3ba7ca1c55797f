"""Ctrl-C and SIGTERM: once to stop in order, twice to stop at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal sends, and what batch systems end a job with."""


@contextmanager
def stopped_in_order(word: str, code: int) -> Iterator[None]:
    """Within it the first signal raises KeyboardInterrupt, and the next ends the program, with a word and a code.

    The second waits for nothing: worker processes of this machine end by themselves when the program has gone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        if heard.is_set():
            click.echo(f"Stopped at once. {word}", err=True)
            os._exit(code)
        heard.set()
        click.echo("Stopping; once more stops at once.", err=True)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, hear) for one in SIGNALS}
    try:
        yield
    finally:
        if not heard.is_set():  # else the program is on its way out, and may be told to hurry until it has gone
            for one, handler in before.items():
                signal.signal(one, handler)
