"""Folders and object stores that can be written to, and each way in which they cannot."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.s3 import objects
from wsi_magnet.doctor import output
from wsi_magnet.doctor.check import CheckResult
from wsi_magnet.doctor.output import check_output, check_temporary, lock_error, rename_error

Usage = namedtuple("Usage", "free")


def only(path: object, disk_bytes: int | None = None) -> CheckResult:
    (found,) = check_output(str(path), disk_bytes)
    assert bool(found.remedy) == (found.status != "ok")
    return found


def test_a_folder_and_one_to_be_created(tmp_path: Path) -> None:
    assert only(tmp_path).status == "ok"
    assert "(to be created)" in only(tmp_path / "a/b").text
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in only(tmp_path / "file").text

    def refuse(**options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    found = only(tmp_path)
    assert (found.status, found.text) == ("problem", f"{tmp_path} cannot be written to: Permission denied")


def test_locks_and_renames_that_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "lock_error", lambda file: "Function not implemented")
    found = only(tmp_path)
    assert (found.status, "Function not implemented" in found.text) == ("problem", True)
    assert "-o flock" in found.remedy
    monkeypatch.setattr(output, "lock_error", lambda file: None)
    monkeypatch.setattr(output, "rename_error", lambda folder: "the old file is still there")
    assert "renaming" in only(tmp_path).text


def test_a_file_that_can_be_locked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lock_error(tmp_path / "lock") is None
    monkeypatch.setattr(FileLock, "acquire", lambda self, **options: FileLock(tmp_path / "other"))
    assert lock_error(tmp_path / "lock") == "a file could be locked twice"


def test_a_rename_that_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rename_error(tmp_path) is None
    monkeypatch.setattr(os, "replace", lambda source, target: None)
    assert rename_error(tmp_path) == "the old file is still there"


@pytest.mark.parametrize(
    ("free", "disk_bytes", "status"),
    [
        (10**6, None, "problem"),
        (10**9, None, "warning"),
        (10**9, 2 * 10**9, "warning"),
        (10**9, 10**8, "ok"),
        (10**10, None, "ok"),
    ],
)
def test_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, disk_bytes: int | None, status: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free))
    assert only(tmp_path, disk_bytes).status == status


def test_a_tmpdir_that_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, *_ = check_temporary()
    assert (first.status, str(tmp_path / "none") in first.text) == ("warning", True)

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    (found,) = check_temporary()
    assert (found.status, found.text) == ("problem", "No usable temporary directory")


def test_an_object_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(bucket).text.endswith("conditional writes work")
    assert not objects(bucket)
    monkeypatch.setattr(output, "replace_seen", lambda path, found, data: True)
    found = only(bucket)
    assert (found.status, "If-Match" in found.remedy) == ("warning", True)
    assert only("s3://no-such-bucket-of-ours/out").status == "problem"
