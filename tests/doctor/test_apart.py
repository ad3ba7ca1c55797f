"""What crashes, raises or hangs in a process of its own is a fact, and what it said before stands."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

from wsi_magnet.doctor.apart import apart, within
from wsi_magnet.doctor.facts import Ended


def says_and(what: str) -> Iterator[str]:
    yield os.environ.get("SAID", "")
    sys.stdout.write("noise")
    match what:
        case "crash":
            os.kill(os.getpid(), signal.SIGILL)
        case "raise":
            raise RuntimeError("no such luck")
        case "hang":
            time.sleep(60)
        case "exit":
            sys.exit(3)


def heard(what: str, silence_s: float = 30.0) -> list[object]:
    part = f"{__name__}:says_and"
    return list(apart(part, what, during="a test", silence_s=silence_s, environment={"SAID": "first"}))


def test_all_is_well() -> None:
    assert heard("end") == ["first"]


def test_a_crash_is_named_by_its_signal() -> None:
    first, ended = heard("crash")
    assert first == "first"
    assert ended == Ended("a test", "it crashed (SIGILL: a library was built for a newer processor)")


def test_an_error_is_told_by_its_last_line() -> None:
    assert heard("raise")[1] == Ended("a test", "it ended with exit code 1 (RuntimeError: no such luck)")


def test_a_process_that_hangs_is_ended() -> None:
    begun = time.monotonic()
    assert heard("hang", 3.0)[-1] == Ended("a test", "it said nothing for 3 s")
    assert time.monotonic() - begun < 30


def test_a_part_that_cannot_be_imported() -> None:
    (ended,) = apart("tests.no_such_module:part", None, during="a test", silence_s=30)
    assert "No module named 'tests.no_such_module'" in ended.how


def test_within() -> None:
    assert within(5, lambda: 3, during="a test") == 3
    assert within(0.1, lambda: time.sleep(2), during="a test") == Ended("a test", "no answer within 0 s")

    def fail() -> int:
        raise OSError("stale\nhandle")

    assert within(5, fail, during="a test") == Ended("a test", "stale handle")
