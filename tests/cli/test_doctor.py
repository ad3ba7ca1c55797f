"""`wsi-magnet doctor` as a shell sees it: readable lines, an exit code, JSON; and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest

from tests.commands import Call
from tests.runs import MadeRun
from wsi_magnet.cli.doctor import OPENING, Announcer, wrapped
from wsi_magnet.doctor.check import CheckResult, Request, ok, problem


@pytest.mark.slow
def test_an_installation_that_works(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    result = call("doctor", "--bundle", made_run.bundle, "--slide", made_run.slide, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "PROBLEM" not in result.output
    for subject in ("Python", "OpenSlide", "imagecodecs", "bundle", "slide", "memory", "output", "device"):
        assert f"ok       {subject} " in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_problems_are_counted_and_json_has_their_remedies(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = call("doctor", "--bundle", tmp_path / "none", "-o", tmp_path / "file", "--device", "cuda:99", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    wrong = [one for one in found["results"] if one["status"] == "problem"]
    assert {one["subject"] for one in wrong} == {"bundle", "output", "device"}
    assert all(one["remedy"] for one in wrong)
    assert found["problems"] == len(wrong)


@pytest.mark.parametrize("as_json", [False, True])
def test_it_says_at_once_what_it_does_and_no_more_in_a_file(
    call: Call, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    def checks(request: Request, announce: Callable[[str], object]) -> Iterator[CheckResult]:
        announce("all")
        yield ok("first", "good")

    monkeypatch.setattr("wsi_magnet.doctor.run.run_checks", checks)
    result = call("doctor", *(["--json"] if as_json else []))
    assert (result.exit_code, result.stderr) == (0, f"{OPENING}\n")
    assert ("results" in json.loads(result.stdout)) if as_json else result.stdout.startswith("ok       first")


def test_a_terminal_shows_the_check_that_runs() -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((Terminal(), "\r\x1b[KChecking packages ...\r\x1b[K"), (StringIO(), "")):
        announce = Announcer(stream)
        announce("packages")
        announce.clear()
        assert stream.getvalue() == shown


def test_wrong_usage(call: Call) -> None:
    assert call("doctor", "--workers", "2", "--scheduler", "tcp://a:1").exit_code == 2


def test_lines_keep_to_the_width_and_paths_stay_whole() -> None:
    path = "/a-long-path/with-hyphens/" + "x" * 20
    text = wrapped(problem("output", f"{path} cannot be written to: {'word ' * 20}", "choose another folder"), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) < 80
    assert path in text
    assert lines[-1].strip() == "Remedy: choose another folder"
    assert lines[0].startswith("PROBLEM  output")
    assert wrapped(ok("x", "fine"), 80) == "ok       x               fine"
