"""Exclusive right to write in a folder: one process at a time, on any machine that sees the folder.

On a file system it is a file lock, which the kernel releases with its process. In an object store it is a lease: an
object that only one process can create, and that its owner rewrites periodically. A newcomer watches it: if it changes,
its owner is alive; if it has not changed for `LEASE_S`, the newcomer takes it over. No clocks of two machines are
compared, and the store decides between two newcomers: it writes only over the version that was seen.
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

LOCK_FILES = frozenset({_LOCK, _OWNER, _LEASE})
"""Names in a folder that belong to its lock."""

LEASE_S = 15.0
"""Time after which an unchanged lease has lost its owner."""

RENEW_S = 2.0
"""Interval at which the owner rewrites its lease."""

_POLL_S = 0.5

_PROBE_S = 0.5
"""Time for which a lock is tried: `working` holds it shared for an instant, and a run must not take that for a run."""


class FolderLock:
    """A folder that this process has locked."""

    def check(self) -> None:
        """Raise ResultBusyError if another process has taken the lease over, as after a long pause of this one."""


@contextmanager
def locked_folder(folder: Location, work: str = "run") -> Iterator[FolderLock]:
    """Lock a folder, which is created if needed; the lock ends with the process, however it ends.

    work: the kind of work, for the error message of a newcomer. Raises ResultBusyError if another process holds the
    lock, StoreError if the folder cannot be written.
    """
    with _leased(folder, work) if isinstance(folder, Url) else _locked(folder, work) as lock:
        yield lock


def _ourselves() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _busy(folder: Location, work: str, owner: str) -> ResultBusyError:
    return ResultBusyError(
        f"another {work} ({owner}) is working in {folder}; wait for it, or choose another output folder with -o"
    )


@contextmanager
def _locked(folder: Path, work: str) -> Iterator[FolderLock]:
    owner = folder / _OWNER
    with storage_errors(folder):
        make_folder(folder)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=_PROBE_S, poll_interval=0.02)
        except Timeout:
            holder = "of unknown owner"
            with suppress(OSError):
                holder = owner.read_text()
            raise _busy(folder, work, holder) from None
    try:
        with storage_errors(folder):
            owner.write_text(_ourselves())
        yield FolderLock()
    finally:
        lock.release()


@contextmanager
def _leased(folder: Url, work: str) -> Iterator[FolderLock]:
    with storage_errors(folder):
        lease = _Lease(folder, work)
        lease.take()
    lease.start()
    try:
        yield lease
    finally:
        lease.end()


class _Lease(FolderLock):
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
        """Create the lease, or take it over. Raises ResultBusyError if its owner is alive."""
        while not create_bytes(self._path, self._text()):
            found = seen(self._path)
            if found is None:
                continue  # it has just been released
            self._watch(found)
            if replace_seen(self._path, found, self._text()):
                break
        self._seen = seen(self._path)
        if self._seen is None or not self._is_ours(self._seen):
            raise _busy(self._folder, self._work, _owner(self._seen))

    def _watch(self, found: Seen) -> None:
        """Return when the owner counts as lost. Raises ResultBusyError if the lease changes."""
        until = time.monotonic() + LEASE_S
        while time.monotonic() < until:
            time.sleep(_POLL_S)
            now = seen(self._path)
            if now is None:
                return  # the replacement will fail, and the lease is created again
            if now != found:
                raise _busy(self._folder, self._work, _owner(now))

    def start(self) -> None:
        self._renewer.start()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            # A store that does not answer now may the next time; if not, the work itself will fail.
            with suppress(Exception):
                self._beat()
            if self._lost_to is not None:
                return

    def _beat(self) -> None:
        assert self._seen is not None
        replace_seen(self._path, self._seen, self._text())
        now = seen(self._path)
        if now is None or not self._is_ours(now):  # also where another one took it over right after our write
            self._lost_to = _owner(now)
        else:
            self._seen = now

    def end(self) -> None:
        """Release the lease, if it is still ours."""
        self._ended.set()
        self._renewer.join()
        with suppress(Exception):  # an abandoned lease expires
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


def lock_owner(folder: Location) -> str | None:
    """Current lock holder ("process 12 on host") or None.

    A lease is watched for as long as its owner may take to rewrite it. Raises StoreError.
    """
    with storage_errors(folder):
        return _lease_owner(folder) if isinstance(folder, Url) else _file_lock_owner(folder)


def _file_lock_owner(folder: Path) -> str | None:
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


def _lease_owner(folder: Url) -> str | None:
    found, until = seen(folder / _LEASE), time.monotonic() + 4 * RENEW_S
    while found is not None and time.monotonic() < until:
        time.sleep(_POLL_S)
        now = seen(folder / _LEASE)
        if now != found:
            return _owner(now) if now is not None else None
    return None
