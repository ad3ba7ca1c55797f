"""`wsi-magnet report`: from results to pages, and one line for what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.commands import Call, one_line
from tests.export.results import Made, make_result
from tests.runs import local


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return local(make_result(tmp_path / "result", np.full((64, 64), 3, np.uint8)).folder)


def test_it_says_what_to_open_and_what_is_odd(call: Call, small: Path, tmp_path: Path) -> None:
    done = call("report", small, "-o", tmp_path / "x.html")
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "x.html"))
    assert "without its slide" in done.stderr


def test_several_results_get_an_index(call: Call, small: Path, tmp_path: Path) -> None:
    make_result(tmp_path / "running", np.full((900, 700), 3, np.uint8), Made(state="running", first_level=1))
    done = call("report", small, tmp_path / "running", "-o", tmp_path / "x.html", "--size", "300")
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "x.html"))
    assert "was stopped" in done.stderr
    assert (tmp_path / "x-slides" / "running.html").is_file()


def test_what_exists_is_kept_without_overwrite(call: Call, small: Path, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("mine")
    assert "--overwrite" in one_line(call("report", small, "-o", tmp_path / "x.html"))
    assert (tmp_path / "x.html").read_text() == "mine"
    assert call("report", small, "-o", tmp_path / "x.html", "--overwrite").exit_code == 0


def test_what_cannot_be_reported_on_is_one_line(call: Call, small: Path, tmp_path: Path) -> None:
    assert "no result folder" in one_line(call("report", tmp_path / "nothing", "-o", tmp_path / "x.html"))
    assert call("report", tmp_path, "-o", tmp_path / "y.html").exit_code == 0, "a folder of results"
    assert ".html" in one_line(call("report", small, "-o", tmp_path / "x.pdf"))
    assert call("report").exit_code == 2
