"""A task in a process of its own: its answer, its error, or how it died."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from wsi_magnet.errors import StoreError
from wsi_magnet.runtime.isolation import Died, run_apart


def act(what: str) -> str:
    """Answers, refuses, or dies."""
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crashed":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "leaves":
        sys.stderr.write("nothing more to be done\n")
        os._exit(7)
    if what == "refuses":
        raise StoreError("no space left")
    sys.stdout.write("noise of a library\n")
    return f"{what} in {os.getpid()}"


def test_it_answers_from_another_process() -> None:
    answer = run_apart(act, "works")
    assert answer.startswith("works in ")
    assert answer != f"works in {os.getpid()}"


def test_its_error_is_raised() -> None:
    with pytest.raises(StoreError, match="no space left"):
        run_apart(act, "refuses")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("killed", "killed (SIGKILL: out of memory?)"),
        ("crashed", "crashed (SIGSEGV)"),
        ("leaves", "exit code 7 (nothing more to be done)"),
    ],
)
def test_it_says_how_it_died(what: str, words: str) -> None:
    died = run_apart(act, what)
    assert isinstance(died, Died)
    assert words in died.how
