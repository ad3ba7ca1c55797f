"""Files of an export: whole under their names or not there, and none replaced unasked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wsi_magnet.errors import StoreError
from wsi_magnet.storage.errors import storage_errors


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How files are written."""

    part_bytes: int = 100_000_000
    """A part is closed once it holds more, before compression; 0 = never. QuPath needs 20 to 25 times as much memory to
    read it."""
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has written."""

    files: tuple[Path, ...]
    objects: int
    notes: tuple[str, ...] = ()
    """What the user should know."""


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raises StoreError where something of that name must stay."""
    if target.exists() and not overwrite:
        raise StoreError(f"{target} exists; choose another name with -o, or replace it with --overwrite")


def provisional(target: Path, part: int = 1) -> Path:
    """The name of a file until it is whole; each process has its own, so that two exports do not write into one."""
    return target.with_name(f"{target.name}.{os.getpid()}.{part}.partial")


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Within it, write a file or make a folder under the name that it gives; at its end, that takes the target's place.

    Left by an error, nothing stays. Raises StoreError for the operating system's errors.
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
    finally:
        with suppress(OSError):  # of a full disk, say, which has been told already
            _delete(partial)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
