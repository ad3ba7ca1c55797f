"""Output files of exports and reports: written atomically, and none replaced without --overwrite."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wsi_magnet.errors import StoreError
from wsi_magnet.storage.atomic import PARTIAL, sync
from wsi_magnet.storage.errors import storage_errors


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Options of the written files."""

    part_bytes: int = 100_000_000
    """A part is closed once it holds more, before compression; 0 = never. QuPath needs 20 to 25 times as much memory to
    read it."""
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """Files that an export has written."""

    files: tuple[Path, ...]
    objects: int
    notes: tuple[str, ...] = ()
    """Notes for the user."""


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raise StoreError if the target exists and may not be replaced, or lies below a file."""
    refuse_below_file(target)
    with storage_errors(target):
        if target.exists() and not overwrite:
            raise StoreError(f"{target} exists; choose another name with -o, or replace it with --overwrite")


def refuse_below_file(target: Path) -> None:
    """Raise StoreError if a file stands where a folder above the target would be."""
    with storage_errors(target):
        above = next((one for one in target.parents if one.exists()), None)
        if above is not None and not above.is_dir():
            raise StoreError(f"{target} cannot be made: {above} is a file, not a folder; choose another place with -o")


def provisional(target: Path, part: int = 1) -> Path:
    """Temporary name of a file; each process has its own, so that two exports do not write to one file."""
    return target.with_name(f"{target.name}.{os.getpid()}.{part}{PARTIAL}")


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Context in which a file or folder is written under the temporary name that it yields; on leaving it is renamed.

    After an error nothing remains. Raises StoreError for errors of the operating system.
    """
    partial = provisional(target)
    try:
        with storage_errors(target):
            _delete(partial)
            yield partial
            if partial.is_dir() and target.is_dir():  # a file takes no folder's place
                aside = provisional(target, 2)
                target.replace(aside)
                partial.replace(target)
                shutil.rmtree(aside)
            else:
                partial.replace(target)
            sync(target.parent)
    finally:
        with suppress(OSError):  # of a full disk, which has been raised already
            _delete(partial)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
