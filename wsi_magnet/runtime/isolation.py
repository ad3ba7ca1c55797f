"""Run a function in a subprocess, so that a crash is attributed to it and takes nothing else down.

    areas = run_isolated(measure, slide)                             # a function's result
    for fact in stream_isolated("package.module:facts", slide, timeout_s=60):
        ...                                                          # a generator's values, as they come

The function's own exceptions are raised in the caller. `ProcessDied` is raised, with the signal's name or the exit
code, where the process crashed, was killed, or was silent for longer than `timeout_s`.

A plain subprocess rather than multiprocessing, which refuses children to the worker processes of Dask: those are
daemonic.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any

from distributed.protocol.pickle import dumps, loads

from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.runtime.process_setup import configure_command_line
from wsi_magnet.text import how_it_ended

Function = Callable[[Any], Any] | str
"""A function of one argument that can be pickled, or "package.module:function" for one whose import may crash."""

LEAVE_S = 5.0
"""Time that a process has to exit after its last value, or after SIGTERM, before it is killed."""


class ProcessDied(WsiMagnetError):
    """An isolated process ended without a result; the message has the signal or the exit code."""


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any


@dataclass(frozen=True, slots=True)
class _Error:
    error: Exception


def run_isolated(
    function: Function,
    argument: object,
    *,
    timeout_s: float | None = None,
    environment: Mapping[str, str] | None = None,
    show_output: bool = False,
) -> Any:
    """The result of a function in a fresh process.

    timeout_s: of the whole call; None: no limit. environment: variables that the process has besides this one's.
    show_output: leave its stdout and stderr on this process's stderr; otherwise the last line is only quoted where it
    dies. Raises ProcessDied, and whatever the function raises.
    """
    (result,) = _messages(_call, function, argument, timeout_s, environment or {}, show_output)
    return result


def stream_isolated(
    function: Function,
    argument: object,
    *,
    timeout_s: float | None = None,
    environment: Mapping[str, str] | None = None,
    show_output: bool = False,
) -> Iterator[Any]:
    """The values of a generator function in a fresh process, as they come; the process ends when this is closed.

    timeout_s: the longest wait for the next value. Everything else as in `run_isolated`.
    """
    return _messages(_iterate, function, argument, timeout_s, environment or {}, show_output)


def _messages(
    mode: Callable[[Function, Any], Iterator[Any]],
    function: Function,
    argument: object,
    timeout_s: float | None,
    environment: Mapping[str, str],
    show_output: bool,
) -> Iterator[Any]:
    request = dumps((mode.__name__, function, argument))
    with tempfile.TemporaryFile() as output, _process(request, environment, None if show_output else output) as started:
        process, connection = started
        try:
            while connection.poll(timeout_s):
                match loads(connection.recv_bytes()):
                    case _Value(value):
                        yield value
                    case _Error(error):
                        raise error
                    case None:
                        return
        except EOFError:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LEAVE_S)
            output.seek(0)
            raise ProcessDied(how_it_ended(process.poll(), output.read().decode(errors="replace"))) from None
        raise ProcessDied(f"no answer within {timeout_s:g} s")


@contextmanager
def _process(
    request: bytes, environment: Mapping[str, str], output: IO[bytes] | None
) -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
    here, there = Pipe(duplex=False)
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(there.fileno())],
        stdin=subprocess.PIPE,
        stdout=output or 2,
        stderr=output,
        pass_fds=[there.fileno()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
    )
    there.close()
    answered = False
    try:
        with suppress(BrokenPipeError):
            _send(process, request)
        yield process, here
        answered = True
    finally:
        _end(process, at_once=not answered)
        here.close()


def _send(process: subprocess.Popen[bytes], request: bytes) -> None:
    assert process.stdin
    with process.stdin as stdin:
        stdin.write(request)


def _end(process: subprocess.Popen[bytes], *, at_once: bool) -> None:
    """Wait for the process unless `at_once`; then SIGTERM, then SIGKILL."""
    for act in (*(() if at_once else (lambda: None,)), process.terminate, process.kill):
        act()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_S)
            return
    process.wait()


def _call(function: Function, argument: Any) -> Iterator[Any]:
    yield _found(function)(argument)


def _iterate(function: Function, argument: Any) -> Iterator[Any]:
    yield from _found(function)(argument)


def _found(function: Function) -> Callable[[Any], Any]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    found: Callable[[Any], Any] = getattr(import_module(module), name)
    return found


def _main(handle: int) -> None:
    """The isolated process: a request on stdin, values through the pipe, and output of libraries on stderr."""
    # Ctrl-C reaches every process of a terminal: the caller handles it and ends this process with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    configure_command_line()
    # Imported by its name: here it is __main__, and its classes would not be those of the caller.
    import_module("wsi_magnet.runtime.isolation").serve(Connection(handle, readable=False))
    # All is sent: from here on there is nothing to leave in order, and an exception would be printed.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def serve(connection: Connection) -> None:
    """Run the request on stdin and send its values; called only in the isolated process."""
    try:
        mode, function, argument = loads(sys.stdin.buffer.read())
        for value in {"_call": _call, "_iterate": _iterate}[mode](function, argument):
            connection.send_bytes(dumps(_Value(value)))
    except Exception as error:
        connection.send_bytes(dumps(_Error(_with_traceback(error))))
    else:
        connection.send_bytes(dumps(None))


def _with_traceback(error: Exception) -> Exception:
    """The error with its traceback as a note, or its text alone where it cannot be pickled."""
    note = "".join(traceback.format_exception(error))
    try:
        loads(dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in an isolated process:\n{note}")
    return error


if __name__ == "__main__":
    _main(int(sys.argv[1]))
