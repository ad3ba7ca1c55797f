"""Lock of a folder: one live owner; a lost owner is replaced, and gets an error."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from wsi_magnet.errors import ResultBusyError
from wsi_magnet.storage import lock
from wsi_magnet.storage.conditional import Seen, replace_seen
from wsi_magnet.storage.location import Location, Url, names, read_bytes, replace_bytes, to_location
from wsi_magnet.storage.lock import locked_folder


@pytest.fixture(params=["file", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "file":
        return tmp_path / "new"
    return to_location(
        f"memory://{uuid4().hex}/new" if request.param == "memory" else str(request.getfixturevalue("bucket"))
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are renewed often, and run out late: however busy the machine is, no owner loses its own."""
    monkeypatch.setattr(lock, "LEASE_S", 60.0)
    monkeypatch.setattr(lock, "RENEW_S", 0.2)
    monkeypatch.setattr(lock, "_POLL_S", 0.1)


@pytest.mark.usefixtures("quick")
def test_a_second_owner_is_refused_until_the_first_releases_the_lock(folder: Location) -> None:
    with locked_folder(folder) as first:
        words = r"another batch \(process \d+ on .+\) is working in"
        with pytest.raises(ResultBusyError, match=words), locked_folder(folder, "batch"):
            pytest.fail("two at once")
        first.check()
    with locked_folder(folder):
        pass
    assert set(names(folder)) <= lock.LOCK_FILES
    if isinstance(folder, Url):
        assert names(folder) == []


def check_for_long(stopped: lock.FolderLock) -> None:
    """Until it raises."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        stopped.check()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_dead_owner_is_replaced_and_a_late_one_gets_an_error(
    folder: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(folder, Path):
        pytest.skip("a lock is let go of by the kernel")
    with monkeypatch.context() as patch:
        patch.setattr(lock, "LEASE_S", 3.0)
        patch.setattr(lock, "RENEW_S", 4.0)  # longer than a lease: an owner that was stopped meanwhile
        with locked_folder(folder) as stopped:
            begun = time.monotonic()
            patch.setattr(lock, "RENEW_S", 0.2)
            with locked_folder(folder) as second:
                assert time.monotonic() - begun >= lock.LEASE_S
                with pytest.raises(ResultBusyError, match="another run"):
                    check_for_long(stopped)
                second.check()
    with locked_folder(folder):
        pass


@pytest.mark.usefixtures("quick")
def test_one_of_many_newcomers_gets_the_lock(folder: Location) -> None:
    got: list[int] = []
    over = threading.Event()

    def try_it(number: int) -> None:
        try:
            with locked_folder(folder):
                got.append(number)
                over.wait(90)
        except ResultBusyError:
            pass

    threads = [threading.Thread(target=try_it, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 90
    while sum(thread.is_alive() for thread in threads) > 1 and time.monotonic() < until:
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_asking_for_the_owner_does_not_make_a_starting_run_fail(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        pass
    held = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)  # as `lock_owner` holds it, for an instant
    timer = threading.Timer(0.1, os.close, [held])
    timer.start()
    with locked_folder(tmp_path):
        assert lock.lock_owner(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"
    timer.join()


def test_a_lease_that_another_one_takes_right_after_a_beat_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = to_location(f"memory://{uuid4().hex}/new")
    assert isinstance(folder, Url)
    with locked_folder(folder) as ours:
        assert isinstance(ours, lock._Lease)

        def overtaken(path: Url, found: Seen, data: bytes) -> bool:
            done = replace_seen(path, found, data)
            replace_bytes(path, b'{"owner": "process 1 on elsewhere", "token": "other", "beat": 1}')
            return done

        monkeypatch.setattr(lock, "replace_seen", overtaken)
        ours._beat()
        with pytest.raises(ResultBusyError, match="process 1 on elsewhere"):
            ours.check()
    assert b"elsewhere" in read_bytes(folder / ".lease"), "what another one holds is left alone"
