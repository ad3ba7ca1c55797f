"""Crashes of isolated checks are results, and JSON counts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from wsi_magnet.config import Execution
from wsi_magnet.doctor.check import CheckResult, Request, ok, problem, warning
from wsi_magnet.doctor.run import _isolated, to_json


def crash(request: Request) -> Iterator[CheckResult]:
    yield ok("first", "said")
    os.kill(os.getpid(), signal.SIGILL)


def test_a_crash_is_a_problem_and_earlier_results_stand() -> None:
    first, second = _isolated("torch", f"{__name__}:crash", Request(Execution()), 60)
    assert first == ok("first", "said")
    assert isinstance(second, CheckResult)
    assert (second.status, second.subject) == ("problem", "torch")
    assert "SIGILL" in second.text


def test_json() -> None:
    found = to_json([ok("a", "b"), warning("a", "b", "c"), problem("a", "b", "c")])
    assert (found["problems"], found["warnings"], len(found["results"])) == (1, 1, 3)
    assert found["results"][0] == {"subject": "a", "status": "ok", "text": "b", "remedy": ""}
