"""Files that are part of a slide and no slides themselves, by what the formats say of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_HEAD_BYTES = 1 << 18
"""DICOM's series stands before the pixels, after a few kilobytes."""

_UID = rb"(?:UI..|..\0\0)([0-9.]{1,64})\0?"
"""A UID's value after its length, with explicit types ("UI" and two bytes) or implicit ones (four)."""

_SERIES = re.compile(rb"\x20\0\x0d\0" + _UID + rb"\x20\0\x0e\0" + _UID, re.DOTALL)
"""(0020,000D) study and (0020,000E) series, next to each other in a data set, not where one is only referred to."""


def dicom_series(path: Path) -> str | None:
    """The series that a DICOM file is part of; None where it cannot be told."""
    try:
        with path.open("rb") as file:
            found = _SERIES.search(file.read(_HEAD_BYTES))
    except OSError:
        return None
    return found[2].decode() if found else None


def named_by_hamamatsu(path: Path) -> Iterator[str]:
    """Absolute paths of the pictures that a .vms or .vmu file, lines of key=value, is an index of."""
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError:
        return
    for line in lines:
        value = line.partition("=")[2].strip()
        if value and "\0" not in value:
            yield str(path.parent / value)
