"""Results from errors, and calls that may hang."""

from __future__ import annotations

import time

import pytest

from wsi_magnet.doctor.check import Needs, call_within, problem_from
from wsi_magnet.errors import WsiMagnetError


def test_an_error_names_its_own_remedy_after_the_last_semicolon() -> None:
    found = problem_from("output", WsiMagnetError("disk full; make room; what is finished is kept"), "other")
    assert (found.text, found.remedy) == ("disk full", "make room")
    found = problem_from("output", WsiMagnetError("disk\nfull"), "other")
    assert (found.text, found.remedy) == ("disk full", "other")


def test_call_within() -> None:
    assert call_within(5, lambda: 3) == 3
    with pytest.raises(TimeoutError, match="no answer within 0 s"):
        call_within(0.05, lambda: time.sleep(1))
    with pytest.raises(ZeroDivisionError):
        call_within(5, lambda: 1 // 0)


def test_memory_by_processes_and_threads() -> None:
    assert Needs(10, 3).memory_bytes(2, 4) == 44
