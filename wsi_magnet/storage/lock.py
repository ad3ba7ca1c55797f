"""Who may work in a folder: one process at a time, on any machine that sees it.

On a file system it is a lock, which the kernel lets go of with its process. An object store has no such thing: there it
is an object that only one process can make, and that its owner writes again and again. Whoever finds one watches it: if
it changes, its owner is alive; if it has not for `LEASE_S`, he is not, and it is taken over. Only the watcher's own
clock is asked, and what decides between two who take it at once is the store: it writes only over what was seen.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from wsi_magnet.errors import ResultBusyError
from wsi_magnet.storage.conditional import Seen, create_bytes, replace_seen, seen
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, Url, delete_object, make_folder

_LOCK, _OWNER, _LEASE = ".lock", ".owner", ".lease"

CLAIM_FILES = frozenset({_LOCK, _OWNER, _LEASE})
"""Names in a folder that belong to its claim and to nothing else."""

LEASE_S = 15.0
"""A lease that did not change for so long has lost its owner."""

RENEW_S = 2.0
"""So often its owner writes it."""

_POLL_S = 0.5


class Claim:
    """A folder that is ours for the time being."""

    def check(self) -> None:
        """Raises ResultBusyError where somebody else has taken it over, as after a long pause of this process."""


@contextmanager
def claimed(folder: Location, work: str = "run") -> Iterator[Claim]:
    """Be the only one at work in a folder, which is made if need be; the claim ends with the process, however it ends.

    work: what it is that works there, for whoever finds it taken. Raises ResultBusyError if another one holds it,
    StoreError if it cannot be written.
    """
    with _leased(folder, work) if isinstance(folder, Url) else _locked(folder, work) as claim:
        yield claim


def _ourselves() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _busy(folder: Location, work: str, owner: str) -> ResultBusyError:
    return ResultBusyError(
        f"another {work} ({owner}) is working in {folder}; wait for it, or choose another output folder with -o"
    )


@contextmanager
def _locked(folder: Path, work: str) -> Iterator[Claim]:
    owner = folder / _OWNER
    with storage_errors(folder):
        make_folder(folder)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            told = "of unknown owner"
            with suppress(OSError):
                told = owner.read_text()
            raise _busy(folder, work, told) from None
    try:
        with storage_errors(folder):
            owner.write_text(_ourselves())
        yield Claim()
    finally:
        lock.release()


@contextmanager
def _leased(folder: Url, work: str) -> Iterator[Claim]:
    with storage_errors(folder):
        lease = _Lease(folder, work)
        lease.take()
    lease.start()
    try:
        yield lease
    finally:
        lease.end()


class _Lease(Claim):
    def __init__(self, folder: Url, work: str) -> None:
        self._folder, self._work = folder, work
        self._path = folder / _LEASE
        self._token = uuid4().hex
        self._beats = 0
        self._seen: Seen | None = None
        self._lost_to: str | None = None
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        if self._lost_to is not None:
            raise _busy(self._folder, self._work, self._lost_to)

    def take(self) -> None:
        """Make it, or take it over. Raises ResultBusyError where its owner is alive."""
        while not create_bytes(self._path, self._text()):
            found = seen(self._path)
            if found is None:
                continue  # it has just been given back
            self._watch(found)
            if replace_seen(self._path, found, self._text()):
                break
        self._seen = seen(self._path)
        if self._seen is None or not self._is_ours(self._seen):
            raise _busy(self._folder, self._work, _owner(self._seen))

    def _watch(self, found: Seen) -> None:
        """Returns when its owner may be taken for gone."""
        until = time.monotonic() + LEASE_S
        while time.monotonic() < until:
            time.sleep(_POLL_S)
            now = seen(self._path)
            if now is None:
                return  # replacing what is gone will fail, and it is made anew
            if now != found:
                raise _busy(self._folder, self._work, _owner(now))

    def start(self) -> None:
        self._renewer.start()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            # A store that does not answer now may the next time; if not, the work itself will say so.
            with suppress(Exception):
                self._beat()
            if self._lost_to is not None:
                return

    def _beat(self) -> None:
        assert self._seen is not None
        if not replace_seen(self._path, self._seen, self._text()):
            now = seen(self._path)
            if now is None or not self._is_ours(now):
                self._lost_to = _owner(now)
                return
        self._seen = seen(self._path) or self._seen

    def end(self) -> None:
        """Give it back, if it is ours still."""
        self._ended.set()
        self._renewer.join()
        with suppress(Exception):  # what is left behind is taken over by the next
            if (now := seen(self._path)) is not None and self._is_ours(now):
                delete_object(self._path)

    def _text(self) -> bytes:
        self._beats += 1
        return json.dumps({"owner": _ourselves(), "token": self._token, "beat": self._beats}).encode()

    def _is_ours(self, found: Seen) -> bool:
        return self._token.encode() in found.data


def _owner(found: Seen | None) -> str:
    with suppress(ValueError, LookupError, TypeError):
        return str(json.loads(found.data)["owner"]) if found else "of unknown owner"
    return "of unknown owner"


def worker_of(folder: Location) -> str | None:
    """Who works in a folder now, "process 12 on host"; None where nobody does. Nobody's way is stood in.

    A lease is watched for as long as its owner may take to write it. Raises StoreError.
    """
    with storage_errors(folder):
        return _lease_keeper(folder) if isinstance(folder, Url) else _lock_holder(folder)


def _lock_holder(folder: Path) -> str | None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(OSError):
            return (folder / _OWNER).read_text()
        return "of unknown owner"
    finally:
        os.close(lock)
    return None


def _lease_keeper(folder: Url) -> str | None:
    found, until = seen(folder / _LEASE), time.monotonic() + 4 * RENEW_S
    while found is not None and time.monotonic() < until:
        time.sleep(_POLL_S)
        now = seen(folder / _LEASE)
        if now != found:
            return _owner(now) if now is not None else None
    return None
