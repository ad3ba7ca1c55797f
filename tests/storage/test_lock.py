"""Who may work in a folder: one, alive; who is gone is found out and does not come back unnoticed."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from wsi_magnet.errors import ResultBusyError
from wsi_magnet.storage import lock as claim
from wsi_magnet.storage.location import Location, Url, names, to_location
from wsi_magnet.storage.lock import claimed


@pytest.fixture(params=["file", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "file":
        return tmp_path / "new"
    return to_location(
        f"memory://{uuid4().hex}/new" if request.param == "memory" else str(request.getfixturevalue("bucket"))
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that run out soon."""
    monkeypatch.setattr(claim, "LEASE_S", 2.0)
    monkeypatch.setattr(claim, "RENEW_S", 0.2)
    monkeypatch.setattr(claim, "_POLL_S", 0.1)


@pytest.mark.usefixtures("quick")
def test_the_second_is_refused_and_the_third_gets_it_when_it_is_given_back(folder: Location) -> None:
    with claimed(folder) as first:
        words = r"another batch \(process \d+ on .+\) is working in"
        with pytest.raises(ResultBusyError, match=words), claimed(folder, "batch"):
            pytest.fail("two at once")
        first.check()
    with claimed(folder):
        pass
    assert set(names(folder)) <= claim.CLAIM_FILES
    if isinstance(folder, Url):
        assert names(folder) == []


@pytest.mark.usefixtures("quick")
def test_a_dead_owner_is_followed_and_a_late_one_is_told(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(folder, Path):
        pytest.skip("a lock is let go of by the kernel")
    with monkeypatch.context() as patch:
        patch.setattr(claim, "RENEW_S", 4.0)  # longer than a lease: an owner that was stopped meanwhile
        with claimed(folder) as stopped:
            begun = time.monotonic()
            patch.setattr(claim, "RENEW_S", 0.2)
            with claimed(folder) as second:
                assert time.monotonic() - begun >= claim.LEASE_S
                time.sleep(4.0)
                with pytest.raises(ResultBusyError, match="another run"):
                    stopped.check()
                second.check()
    with claimed(folder):
        pass


@pytest.mark.usefixtures("quick")
def test_of_many_at_once_one_gets_it(folder: Location) -> None:
    got: list[int] = []
    over = threading.Event()

    def try_it(number: int) -> None:
        try:
            with claimed(folder):
                got.append(number)
                over.wait(10)
        except ResultBusyError:
            pass

    threads = [threading.Thread(target=try_it, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while sum(thread.is_alive() for thread in threads) > 1 and time.monotonic() < until:
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    assert len(got) == 1
