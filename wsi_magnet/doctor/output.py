"""Checks of the folders and object stores that are written to, by writing there; nothing stays behind."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from wsi_magnet.doctor.check import CheckResult, call_within, ok, one_line, problem, problem_from, warning
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.storage.conditional import create_bytes, replace_seen, seen
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Url, delete, names, read_bytes, to_location
from wsi_magnet.text import byte_text

PROBE = ".wsi-magnet-doctor-"
"""Prefix of everything that a check writes."""

FOLDER_S, STORE_S = 20.0, 60.0
"""Longest waits for a folder, and for about ten requests to a store, whose library repeats them."""

LEAST_FREE_BYTES, USUAL_FREE_BYTES = 100_000_000, 2_000_000_000
"""No result fits into less than the first; a large slide's takes up to the second."""


def check_temporary() -> Iterator[CheckResult]:
    """Check the folder for temporary files, and that TMPDIR is not ignored."""
    remedy = "set TMPDIR to a folder on a larger disk that can be written to"
    named = os.environ.get("TMPDIR")
    try:
        used = tempfile.gettempdir()
    except OSError as error:  # no folder at all can be written to
        yield problem("temporary", error.strerror or str(error), remedy)
        return
    if named and os.path.abspath(named) != used:
        yield warning("temporary", f"TMPDIR={named} cannot be written to; {used} is used instead", remedy)
    yield from check_folder("temporary", Path(used), remedy, usual_bytes=LEAST_FREE_BYTES)


def check_output(output: str, disk_bytes: int | None) -> Iterator[CheckResult]:
    """Check the location of results. disk_bytes: size of the result before compression, if it is known."""
    try:
        where = to_location(output)
    except WsiMagnetError as error:
        yield problem_from("output", error, "pass a folder or a URL with -o")
        return
    if isinstance(where, Url):
        yield check_store(where)
    else:
        remedy = "choose another folder with -o"
        yield from check_folder("output", where.expanduser().absolute(), remedy, disk_bytes=disk_bytes)


def check_folder(
    subject: str, folder: Path, remedy: str, *, disk_bytes: int | None = None, usual_bytes: int = USUAL_FREE_BYTES
) -> list[CheckResult]:
    """Check a folder, or the nearest existing one above it: writing, locks, renames, and free space."""
    try:
        return call_within(FOLDER_S, lambda: list(_folder(subject, folder, remedy, disk_bytes, usual_bytes)))
    except OSError as error:
        return [problem(subject, f"{folder} cannot be written to: {error.strerror or one_line(error)}", remedy)]


def _folder(subject: str, folder: Path, remedy: str, disk_bytes: int | None, usual_bytes: int) -> Iterator[CheckResult]:
    there = nearest_existing(folder)
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file")
    free = shutil.disk_usage(there).free
    with tempfile.TemporaryDirectory(prefix=PROBE, dir=there, ignore_cleanup_errors=True) as name:
        lock, rename = lock_error(Path(name) / "lock"), rename_error(Path(name))
    if lock is not None:
        mount = f"mount it with locks (Lustre: -o flock; NFS: without nolock), or {remedy}"
        yield problem(subject, f"{folder}: files cannot be locked ({lock}), so two runs could write one result", mount)
    if rename is not None:
        yield problem(subject, f"{folder}: files cannot be replaced by renaming ({rename})", remedy)
    text = f"{folder}: {byte_text(free)} free"
    if there != folder:
        text = f"{folder} (to be created): {byte_text(free)} free"
    if free < LEAST_FREE_BYTES:
        yield problem(subject, text, f"free some space, or {remedy}")
    elif disk_bytes is not None and free < disk_bytes:
        text += f"; the slide's result takes up to {byte_text(disk_bytes)} before compression"
        yield warning(subject, text, f"free some space, or {remedy}")
    elif disk_bytes is None and free < usual_bytes:
        yield warning(subject, f"{text}; a large slide's result may not fit", f"free some space, or {remedy}")
    elif lock is None and rename is None:
        yield ok(subject, f"{text}; locks and renames work")


def nearest_existing(path: Path) -> Path:
    """A path, or the nearest one above it that exists."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def lock_error(file: Path) -> str | None:
    """Fault of file locks in a folder; None if a second lock is refused as it should be."""
    first, second = FileLock(file), FileLock(file)
    try:
        with first.acquire(timeout=0):
            try:
                second.acquire(timeout=0)
            except Timeout:
                return None
            second.release()
            return "a file could be locked twice"
    except (OSError, NotImplementedError) as error:
        return one_line(error)


def rename_error(folder: Path) -> str | None:
    """Fault of renaming over a file; None if it works."""
    new, old = folder / "new", folder / "old"
    new.write_bytes(b"new")
    old.write_bytes(b"old")
    try:
        os.replace(new, old)
    except OSError as error:
        return one_line(error)
    return None if old.read_bytes() == b"new" and not new.exists() else "the old file is still there"


def check_store(where: Url) -> CheckResult:
    """Check that an object store can be written to, and that it refuses conditional writes as it should."""
    try:
        return call_within(STORE_S, lambda: _store(where))
    except (WsiMagnetError, OSError) as error:
        return problem_from("output", error, "check that the store answers and that your keys may write to it")


def _store(where: Url) -> CheckResult:
    probe = where / f"{PROBE}{secrets.token_hex(4)}"
    one = probe / "one"
    with storage_errors(where):
        try:
            create_bytes(one, b"first")
            if read_bytes(one) != b"first" or names(probe) != ["one"]:
                return problem("output", f"{where}: an object that was written is not there", "choose another store")
            conditions = not create_bytes(one, b"again")
            first = seen(one)
            conditions &= first is not None and replace_seen(one, first, b"second")
            conditions &= first is not None and not replace_seen(one, first, b"third")
        finally:
            with suppress(Exception):  # the first error counts
                delete(probe)
    if conditions:
        return ok("output", f"{where}: objects can be written, listed and deleted; conditional writes work")
    text = f"{where}: conditional writes do not work, so two runs could write one result"
    remedy = "use a store with conditional writes (If-None-Match, If-Match), or let only one run write a result"
    return warning("output", text, remedy)
