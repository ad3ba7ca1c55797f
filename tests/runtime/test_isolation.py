"""A function in a process of its own: its result, its error, or how the process died."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from wsi_magnet.errors import StoreError
from wsi_magnet.runtime.isolation import ProcessDied, run_isolated, stream_isolated


class Awkward(Exception):
    """Cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def act(what: str) -> str:
    """Answers, refuses, or dies."""
    if hasattr(signal, what):
        os.kill(os.getpid(), getattr(signal, what))
    if what == "leaves":
        sys.stderr.write("nothing more to be done\n")
        os._exit(7)
    if what == "refuses":
        raise StoreError("no space left")
    if what == "awkward":
        raise Awkward(1, 2)
    if what == "hangs":
        time.sleep(100)
    sys.stdout.write("noise of a library\n")
    return f"{what} in {os.getpid()}"


def two_and(what: str) -> Iterator[str]:
    yield os.environ.get("FIRST", "")
    yield act(what)


def test_results_come_from_another_process() -> None:
    result = run_isolated(act, "works")
    assert result.startswith("works in ")
    assert result != f"works in {os.getpid()}"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("SIGKILL", r"killed \(SIGKILL: out of memory\?\)"),
        ("SIGSEGV", r"crashed \(SIGSEGV\)"),
        ("leaves", r"exit code 7 \(nothing more to be done\)"),
    ],
)
def test_a_death_is_named(what: str, words: str) -> None:
    with pytest.raises(ProcessDied, match=words):
        run_isolated(act, what)


def test_errors_are_raised_with_their_traceback() -> None:
    with pytest.raises(StoreError, match="no space left") as caught:
        run_isolated(act, "refuses")
    assert 'raise StoreError("no space left")' in caught.value.__notes__[0]


def test_an_error_that_cannot_be_pickled_keeps_its_text() -> None:
    with pytest.raises(RuntimeError, match="Awkward: 1 and 2"):
        run_isolated(act, "awkward")


def test_values_come_before_the_death() -> None:
    stream = stream_isolated(f"{__name__}:two_and", "SIGILL", environment={"FIRST": "first"})
    assert next(stream) == "first"
    with pytest.raises(ProcessDied, match=r"SIGILL: a library was built for a newer processor"):
        next(stream)


def test_a_process_that_hangs_is_ended() -> None:
    stream = stream_isolated(two_and, "hangs", timeout_s=60)
    assert next(stream) == ""
    stream.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessDied, match=r"no answer within 0\.1 s"):
        run_isolated(act, "hangs", timeout_s=0.1)


def test_a_function_that_cannot_be_imported() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"tests\.no_such_module"):
        run_isolated("tests.no_such_module:part", None)
