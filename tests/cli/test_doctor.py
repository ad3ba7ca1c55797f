"""`wsi-magnet doctor` as a shell sees it: readable lines, an exit code, JSON; and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import Call
from tests.runs import MadeRun
from wsi_magnet.cli.doctor import wrapped
from wsi_magnet.doctor.check import ok, problem


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
