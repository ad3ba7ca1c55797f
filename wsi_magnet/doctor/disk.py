"""Whether a folder can be worked in, by working in it: a file made, locked, renamed, made to last, and deleted."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from wsi_magnet.doctor.apart import one_line, within
from wsi_magnet.doctor.facts import Ended, Folder

PROBE = ".wsi-magnet-doctor-"
"""How the names of what is made for a look begin; it is deleted again."""

PATIENCE_S = 20.0
"""A file system of which nothing is heard for so long is not there."""


def gather_folder(path: str | Path) -> Folder:
    """Try a folder that results would be written to, or the nearest one above it that is there."""
    asked = Path(path).expanduser().absolute()
    found = within(PATIENCE_S, lambda: _try(asked), during=f"a look at {asked}")
    return Folder(str(asked), str(asked), found.how) if isinstance(found, Ended) else found


def there_already(path: Path) -> Path:
    """A folder, or the nearest thing above it that is there."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def _try(asked: Path) -> Folder:
    tried = there_already(asked)
    if not tried.is_dir():
        return Folder(str(asked), str(tried), f"{tried} is a file")
    free, kind = shutil.disk_usage(tried).free, filesystem_of(tried)
    try:
        probe = Path(tempfile.mkdtemp(prefix=PROBE, dir=tried))
    except OSError as error:
        return Folder(str(asked), str(tried), error.strerror or one_line(error), free, kind)
    try:
        seconds = _last(probe / "lasting")
        return Folder(str(asked), str(tried), None, free, kind, _locks(probe / "lock"), _renames(probe), seconds)
    except OSError as error:
        return Folder(str(asked), str(tried), error.strerror or one_line(error), free, kind)
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _last(file: Path) -> float:
    """Seconds to make a small file last."""
    with file.open("wb") as handle:
        handle.write(b"x" * 4096)
        handle.flush()
        begun = time.perf_counter()
        os.fsync(handle.fileno())
        return time.perf_counter() - begun


def _locks(file: Path) -> str | None:
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


def _renames(folder: Path) -> str | None:
    new, old = folder / "new", folder / "old"
    try:
        new.write_bytes(b"new")
        old.write_bytes(b"old")
        os.replace(new, old)
        return None if old.read_bytes() == b"new" and not new.exists() else "a file did not take another's place"
    except OSError as error:
        return one_line(error)


def filesystem_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system that a path lies on, as "ext4" or "nfs4"; "unknown" where the system does not say."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return "unknown"
    points = [(words[1].replace("\\040", " "), words[2]) for words in map(str.split, lines) if len(words) > 2]
    resolved = path.resolve()
    holding = [(len(point), i, kind) for i, (point, kind) in enumerate(points) if resolved.is_relative_to(point)]
    return max(holding)[2] if holding else "unknown"
