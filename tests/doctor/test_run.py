"""Crashes of isolated checks are results, and JSON counts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest

from wsi_magnet.config import Execution
from wsi_magnet.doctor import run as module
from wsi_magnet.doctor.check import CheckResult, Request, ok, problem, warning
from wsi_magnet.doctor.run import _isolated, run_checks, to_json


def crash(request: Request) -> Iterator[CheckResult]:
    yield ok("first", "said")
    os.kill(os.getpid(), signal.SIGILL)


def test_a_crash_is_a_problem_and_earlier_results_stand() -> None:
    first, second = _isolated("torch", f"{__name__}:crash", Request(Execution()), 60)
    assert first == ok("first", "said")
    assert isinstance(second, CheckResult)
    assert (second.status, second.subject) == ("problem", "torch")
    assert "SIGILL" in second.text


def test_each_check_is_announced_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, *_: object) -> Iterator[CheckResult]:
        yield ok(name, "done")

    for name in ("software", "machine", "temporary", "output", "extras"):
        monkeypatch.setattr(module, f"check_{name}", partial(check, name))
    monkeypatch.setattr(module, "_isolated", check)
    cluster = SimpleNamespace(check_cluster=partial(check, "cluster"))  # its module loads Dask and torch
    monkeypatch.setitem(sys.modules, "wsi_magnet.doctor.cluster", cluster)
    seen: list[str] = []
    request = Request(Execution(scheduler="tcp://a:1"), slide="a.svs", output="out")
    for result in run_checks(request, lambda what: seen.append(f"> {what}")):
        seen.append(result.subject)
    assert seen == [
        *("> Python and packages", "software", "> readers, bundle and slide", "reading"),
        *("> cores, memory and temporary files", "machine", "temporary", "> output folder", "output"),
        *("> PyTorch and devices", "torch", "> scheduler and workers", "cluster", "> extras", "extras"),
    ]


def test_json() -> None:
    found = to_json([ok("a", "b"), warning("a", "b", "c"), problem("a", "b", "c")])
    assert (found["problems"], found["warnings"], len(found["results"])) == (1, 1, 3)
    assert found["results"][0] == {"subject": "a", "status": "ok", "text": "b", "remedy": ""}
