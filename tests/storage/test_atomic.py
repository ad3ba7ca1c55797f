"""Atomic writes: the old file or the new one, nothing left after an error, the folder synchronised after a rename."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wsi_magnet.errors import StoreError
from wsi_magnet.storage.append_log import open_lines
from wsi_magnet.storage.atomic import atomic_file, replace_file, sync
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import make_folder, replace_bytes


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    for data in (b"first", b"second, longer", b""):
        replace_file(target, data)
        assert target.read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


def test_after_an_error_the_old_file_stays_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    replace_file(target, b"old")

    def interrupted() -> None:
        with atomic_file(target) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])


@pytest.mark.parametrize("write", [replace_file, replace_bytes])
def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: object) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left"), storage_errors(tmp_path):
        write(tmp_path / "file", b"data")  # type: ignore[operator]
    assert os.listdir(tmp_path) == []


def test_file_and_folder_are_synchronised_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted(descriptor: int) -> None:
        happened.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        happened.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", renamed)
    replace_file(tmp_path / "file", b"data")
    assert happened == ["file", "rename", "folder"]


def test_a_file_system_that_synchronises_no_folders_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(os, "fsync", refused)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")


def test_new_folders_and_a_new_log_are_synchronised_into_their_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr("wsi_magnet.storage.location.sync", lambda path: synced.append(path.name))
    monkeypatch.setattr("wsi_magnet.storage.append_log.sync", lambda path: synced.append(path.name))
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced == ["b", "a", tmp_path.name]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 3
    for _ in range(2):
        open_lines(tmp_path / "a" / "log").close(compact=True)
    assert synced[3:] == ["a"]
