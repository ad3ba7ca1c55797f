"""Append-only log: added lines come back, from a file or from objects, also after a kill."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

import pytest

from wsi_magnet.errors import StoreError
from wsi_magnet.storage import append_log as lines
from wsi_magnet.storage.append_log import open_lines, read_lines
from wsi_magnet.storage.location import Location, Url, names, to_location


@pytest.fixture(params=["file", "memory", "s3"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "file":
        return tmp_path / "journal.jsonl"
    root = f"memory://{uuid4().hex}/x" if request.param == "memory" else str(request.getfixturevalue("bucket"))
    return to_location(root) / "journal.jsonl"


def test_added_lines_come_back_in_order_and_more_can_be_added(path: Location) -> None:
    assert list(read_lines(path)) == []
    expected = []
    for turn in range(3):
        open_ = open_lines(path)
        for number in range(100):
            line = f"{turn} {number}".encode()
            open_.add(line)
            expected.append(line)
        open_.close(compact=turn != 1)
        assert list(read_lines(path)) == expected
    assert names(path.parent) == ["journal.jsonl"], "joined"


def test_lines_wait_no_longer_than_they_may(path: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "WAIT_S", 0.2)
    open_ = open_lines(path)
    open_.add(b"alone")
    until = time.monotonic() + 10
    while list(read_lines(path)) != [b"alone"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    open_.close(compact=True)


def test_a_flush_does_not_wait(path: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "WAIT_S", 60.0)
    open_ = open_lines(path)
    for number in range(3):
        open_.add(str(number).encode())
        open_.flush()
        assert list(read_lines(path)) == [str(n).encode() for n in range(number + 1)]
    open_.flush()
    open_.close(compact=True)


def test_many_lines_are_few_objects(path: Location) -> None:
    if not isinstance(path, Url):
        pytest.skip("of object stores")
    open_ = open_lines(path)
    for number in range(1000):
        open_.add(str(number).encode())
    open_.close(compact=False)
    assert len(names(path.parent / "journal")) < 100
    assert len(list(read_lines(path))) == 1000


def test_a_store_that_refuses_writes_is_an_error(path: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(path, Url):
        pytest.skip("of object stores")

    def refuse(path: Url, data: bytes) -> bool:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(lines, "WAIT_S", 0.05)
    monkeypatch.setattr(lines, "create_bytes", refuse)
    open_ = open_lines(path)
    open_.add(b"x")
    with pytest.raises(StoreError, match="credentials"):
        open_.flush()
    with pytest.raises(StoreError, match="credentials"):
        open_.close(compact=True)
