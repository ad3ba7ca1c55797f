"""A walk below a folder: links, loops, hidden names, closed and unreadable folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsi_magnet.storage.walk import walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/1.txt", "a/b/2.txt", "c/3.txt", ".hidden/4.txt", ".5.txt", "6.txt"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "root"


def paths(root: Path, kind: str = "file") -> list[str]:
    return [entry.path.relative_to(root).as_posix() for entry in walk(root) if entry.kind == kind]


def test_all_files_and_folders_by_path(root: Path) -> None:
    assert [entry.path.relative_to(root).as_posix() for entry in walk(root)] == [
        "6.txt",
        "a",
        "a/1.txt",
        "a/b",
        "a/b/2.txt",
        "c",
        "c/3.txt",
    ]


def test_a_folder_that_is_linked_twice_is_visited_once(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "7.txt").touch()
    for name in ("a/link", "c/link", "z"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    assert [name for name in paths(root) if name.endswith("7.txt")] == ["a/link/7.txt"]
    assert paths(root, "folder") == ["a", "a/b", "a/link", "c"]


def test_a_link_to_a_folder_below_comes_before_it(root: Path) -> None:
    (root / "B").symlink_to("a/b")
    assert paths(root) == ["6.txt", "B/2.txt", "a/1.txt", "c/3.txt"]


def test_loops_end(root: Path) -> None:
    (root / "a" / "b" / "up").symlink_to("../..")
    (root / "a" / "here").symlink_to(".")
    (root / "self").symlink_to("self")
    (root / "dangling").symlink_to("nothing")
    (root / "to_a_file").symlink_to("6.txt")
    files = ["6.txt", "a/1.txt", "a/b/2.txt", "c/3.txt", "dangling", "self", "to_a_file"]
    assert paths(root) == files
    (root.parent / "way").symlink_to(root)
    assert paths(root.parent / "way") == files, "the root is a link itself"


def test_a_closed_folder_is_not_entered_and_can_be_visited_by_another_way(root: Path) -> None:
    (root / "a" / "way").symlink_to("../c")
    entries = list(walk(root, enter=lambda folder: folder.name not in ("a", "way")))
    found = {entry.path.relative_to(root).as_posix(): entry.kind for entry in entries}
    assert found == {"6.txt": "file", "a": "closed", "c": "folder", "c/3.txt": "file"}
    assert [e.path.name for e in walk(root, enter=lambda folder: folder.name != "way")][-1] == "3.txt"


def test_a_folder_that_cannot_be_read_is_reported_and_seems_empty(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, errors = os.scandir, list[OSError]()

    def refuse(folder: Path) -> object:
        if folder == root / "a":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [e.path.name for e in walk(root, on_error=errors.append)] == ["6.txt", "a", "c", "3.txt"]
    assert [error.filename for error in errors] == [str(root / "a")]


def test_a_root_that_is_no_folder_is_an_error_and_empty(root: Path) -> None:
    errors: list[OSError] = []
    assert list(walk(root / "nothing", on_error=errors.append)) == []
    assert len(errors) == 1
