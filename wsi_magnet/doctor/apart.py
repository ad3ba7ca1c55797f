"""A part of the examination in a process of its own, so that what crashes or hangs there is a line and no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from wsi_magnet.doctor.facts import Ended
from wsi_magnet.text import how_it_ended

Fact = TypeVar("Fact")

_LEAVE_S = 5.0
"""How long a process that has said all may take to end."""


def apart(
    part: str, asked: object, *, during: str, silence_s: float, environment: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """What a generator yields in a fresh process, one by one.

    part: "module:function", so that what crashes when it is imported does that there. environment: variables of that
    process. At last comes an `Ended` where it crashed, raised something, or said nothing for `silence_s` seconds.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "stderr"
        process = context.Process(target=_begin, args=(there, part, asked, str(said), environment or {}))
        process.start()
        there.close()
        try:
            while here.poll(silence_s):
                message = here.recv()
                if message is None:
                    process.join(_LEAVE_S)
                    return
                yield message
            yield Ended(during, f"it said nothing for {silence_s:.0f} s")
        except EOFError:
            process.join(_LEAVE_S)
            yield Ended(
                during, how_it_ended(process.exitcode, said.read_text(errors="replace") if said.exists() else "")
            )
        finally:
            process.terminate()
            process.join(_LEAVE_S)
            process.kill()
            process.join()
            here.close()


def within(seconds: float, function: Callable[[], Fact], *, during: str) -> Fact | Ended:
    """What a function returns, or an `Ended` where that takes longer or it raises an OSError.

    For what may hang in the kernel, as a network's file system does. The thread that hangs is left behind.
    """
    found: list[Fact | Ended] = []

    def call() -> None:
        try:
            found.append(function())
        except Exception as error:
            found.append(Ended(during, one_line(error)))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else Ended(during, f"no answer within {seconds:.0f} s")


def one_line(error: BaseException) -> str:
    """An error as part of a line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _begin(connection: Connection, part: str, asked: object, said: str, environment: Mapping[str, str]) -> None:
    # Ctrl-C reaches the whole group of processes: the parent takes it and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    os.environ.update(environment)
    # Libraries warn on stderr, and the lines for people are no place for it.
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 2)
    os.dup2(handle, 1)
    module, _, name = part.partition(":")
    for fact in getattr(import_module(module), name)(asked):
        connection.send(fact)
    connection.send(None)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)
