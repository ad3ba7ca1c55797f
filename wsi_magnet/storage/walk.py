"""Everything below a folder of this machine, with links followed and each real folder visited once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class WalkEntry:
    """A file or a folder below the root of a walk."""

    path: Path
    """Below the root as it was given: links are kept."""
    kind: Literal["file", "folder", "closed"]
    """A link is of the kind of its target, and a file if it has none. "closed" is a folder that is not entered."""


def walk(
    root: Path,
    *,
    enter: Callable[[Path], bool] = lambda folder: True,
    on_error: Callable[[OSError], object] = lambda error: None,
) -> Iterator[WalkEntry]:
    """Yield all files and folders below a folder by path, each folder before its content.

    Names that start with a dot are skipped. A folder that has been visited, because two links lead to it or it lies in
    itself, is skipped too: its first path stands for it. enter: false for a folder that is not to be entered.
    on_error: called for a folder that cannot be read, which then seems empty.
    """
    visited = {os.path.realpath(root)}
    open_folders = [iter(_entries(root, on_error))]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
        elif not _is_folder(entry):
            yield WalkEntry(Path(entry.path), "file")
        elif not enter(path := Path(entry.path)):
            yield WalkEntry(path, "closed")
        elif (real := os.path.realpath(path)) not in visited:
            visited.add(real)
            yield WalkEntry(path, "folder")
            open_folders.append(iter(_entries(path, on_error)))


def _entries(folder: Path, on_error: Callable[[OSError], object]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
    except OSError as error:
        on_error(error)
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
