"""Atomic, durable writes of files: a reader finds the old file or the new one, also after a kill or a power failure.

A file is written under a temporary name in the target's folder, synchronised, renamed, and its folder synchronised:
without the last step the new name itself may be lost with the power (fsync(2); ext4 and XFS keep it, others need not).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
"""Answers of file systems that synchronise no folders, some network file systems among them."""

PARTIAL = ".partial"
"""Suffix of temporary names. What a killed process leaves under such a name may be deleted by its successor."""


@contextmanager
def atomic_file(target: Path, *, unique: str = "", sync_name: bool = True) -> Iterator[BinaryIO]:
    """Open a new file that replaces `target` on leaving; after an error the target stays and the new file is deleted.

    unique: part of the temporary name, where several processes may write one target. sync_name: False where the
    caller synchronises the folder after several files. Raises OSError.
    """
    partial = target.with_name(f"{target.name}{unique and f'.{unique}'}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        with suppress(OSError):  # of the same full disk, perhaps
            partial.unlink(missing_ok=True)
        raise
    if sync_name:
        sync(target.parent)


def replace_file(target: Path, data: bytes) -> None:
    """Write a whole file atomically. Raises OSError."""
    with atomic_file(target) as file:
        file.write(data)


def sync(path: Path) -> None:
    """Write a file's content, or a folder's names, to the disk. Raises OSError.

    File systems that cannot synchronise folders are left to do it their own way.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
