"""Paths that a pattern means, with links followed once: in "**" the standard library follows those that lead back
without end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import filter as matching
from glob import has_magic
from pathlib import Path


def expand(pattern: Path) -> set[Path]:
    """What is there of an absolute pattern; "**" is any number of folders, also none, and at the end all in them.

    Hidden names are meant only where the pattern's begins with a dot. Links are followed, in a circle once.
    """
    found = {Path(pattern.anchor)}
    for number, part in enumerate(pattern.parts[1:], start=2):
        if part == "**":
            found = {below for path in found for below in _folders(path, frozenset())}
            if number == len(pattern.parts):
                found |= {path / name for path in found for name in _names(path, "*")}
        elif has_magic(part):
            found = {path / name for path in found for name in _names(path, part)}
        else:
            found = {path / part for path in found if os.path.lexists(path / part)}
    return found


def _names(folder: Path, pattern: str) -> list[str]:
    names: list[str] = []
    with suppress(OSError):  # no folder, or one that may not be looked into
        names = os.listdir(folder)
    return [name for name in matching(names, pattern) if pattern.startswith(".") or not name.startswith(".")]


def _folders(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """A folder and all below it."""
    real = os.path.realpath(folder)
    if real in above or not folder.is_dir():
        return
    yield folder
    for name in _names(folder, "*"):
        yield from _folders(folder / name, above | {real})
