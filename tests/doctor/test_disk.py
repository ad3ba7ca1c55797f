"""Folders tried by writing into them; nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import filelock
import pytest

from wsi_magnet.doctor import disk
from wsi_magnet.doctor.disk import filesystem_of, gather_folder


def test_a_folder_that_will_do(tmp_path: Path) -> None:
    found = gather_folder(tmp_path)
    assert (found.error, found.locks, found.renames) == (None, None, None)
    assert found.free_bytes > 0
    assert found.fsync_s > 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_still_to_be_made_is_not_made(tmp_path: Path) -> None:
    found = gather_folder(tmp_path / "a" / "b")
    assert (found.path, found.tried) == (str(tmp_path / "a" / "b"), str(tmp_path))
    assert found.error is None
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert gather_folder(tmp_path / "file").error == f"{tmp_path / 'file'} is a file"
    assert gather_folder(tmp_path / "file" / "below").error == f"{tmp_path / 'file'} is a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert gather_folder(tmp_path).error == "Permission denied"


def test_locks_that_do_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filelock.FileLock, "_acquire", lambda self: setattr(self._context, "lock_file_fd", 0))
    monkeypatch.setattr(filelock.FileLock, "_release", lambda self: setattr(self._context, "lock_file_fd", None))
    assert gather_folder(tmp_path).locks == "a file could be locked twice"


def test_locks_that_the_file_system_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    assert "does not appear to support" in str(gather_folder(tmp_path).locks)


def test_a_file_system_of_which_nothing_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "PATIENCE_S", 0.1)
    monkeypatch.setattr(disk, "there_already", lambda path: __import__("time").sleep(5))
    assert gather_folder(tmp_path).error == "no answer within 0 s"


def test_the_kind_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw 0 0\nb {tmp_path} nfs4 rw 0 0\nc {tmp_path}/elsewhere lustre rw 0 0\n")
    assert filesystem_of(tmp_path / "results", mounts) == "nfs4"
    assert filesystem_of(Path("/"), mounts) == "ext4"
    assert filesystem_of(tmp_path, tmp_path / "none") == "unknown"
