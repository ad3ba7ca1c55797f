"""Reports on disk: whole or not at all, and nothing replaced unasked."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.results import make_result
from tests.report.reading import Reading
from wsi_magnet.errors import ConfigError, StoreError, WsiMagnetError
from wsi_magnet.report.write import ReportOptions, write_report


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Results of one name in two folders."""
    folders = [tmp_path / "a" / "slide", tmp_path / "b" / "slide"]
    for label, folder in enumerate(folders, start=3):
        make_result(folder, np.full((40, 64), label, np.uint8))
    return folders


def test_one_result_is_one_file(two: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    assert write_report(two[:1], target).files == (target,)
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]


def test_several_are_an_index_and_a_folder_of_pages_that_lead_to_each_other(two: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "out" / "all of them.html"
    write_report(two, target)
    assert sorted(p.name for p in target.parent.iterdir()) == ["all of them-slides", "all of them.html"]
    links = [a["href"] for a in Reading(target.read_text()).named("a")]
    assert links == ["all%20of%20them-slides/slide.html", "all%20of%20them-slides/slide-2.html"]
    page = (target.parent / "all of them-slides" / "slide-2.html").read_text()
    assert [a["href"] for a in Reading(page).named("a")] == ["../all%20of%20them.html"]


def test_an_index_names_states_shares_and_grades(two: list[Path], tmp_path: Path) -> None:
    write_report(two, tmp_path / "x.html")
    text = Reading((tmp_path / "x.html").read_text()).text
    for part in ("2 slides", "2 finished", "3 + 3 group 1", "4 + 4 group 4", "100.0 %", "Not for diagnosis."):
        assert part in text


def test_what_is_there_is_replaced_only_when_asked(two: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "x.html"
    write_report(two, target)
    before = target.read_bytes()
    for results in (two, two[:1]):
        with pytest.raises(StoreError, match="--overwrite"):
            write_report(results, target)
    assert target.read_bytes() == before
    write_report(two[::-1], target, ReportOptions(overwrite=True))
    assert len(list((tmp_path / "x-slides").iterdir())) == 2


def test_a_folder_of_other_things_is_never_replaced(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "x-slides").mkdir()
    (tmp_path / "x-slides" / "thesis.docx").write_text("years of work")
    with pytest.raises(StoreError, match=r"thesis\.docx"):
        write_report(two, tmp_path / "x.html", ReportOptions(overwrite=True))


@pytest.mark.parametrize("name", ["report.pdf", "report"])
def test_a_name_that_is_no_page_is_refused(two: list[Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"\.html"):
        write_report(two, tmp_path / name)


def test_one_bad_result_is_told_before_anything_is_written(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    with pytest.raises(WsiMagnetError, match="foreign"):
        write_report([*two, tmp_path / "foreign"], tmp_path / "out" / "x.html")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how_many", [1, 2])
def test_a_full_disk_leaves_nothing_behind(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how_many: int
) -> None:
    whole: Callable[..., int] = Path.write_bytes

    def full(path: Path, data: bytes) -> Any:
        if "partial" in path.name:
            whole(path, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="no space left"):
        write_report(two[:how_many], tmp_path / "out" / "x.html")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_under_way_and_a_lost_slide_are_told(two: list[Path], tmp_path: Path) -> None:
    assert "without its slide" in write_report(two[:1], tmp_path / "x.html").notes[0]
