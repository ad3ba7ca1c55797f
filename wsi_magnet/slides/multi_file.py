"""Detection of files that belong to a slide of several files, by the rules of their formats."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_HEAD_BYTES = 1 << 18
"""Length of a file's beginning in which a DICOM series is searched: it precedes the pixels, after a few kilobytes."""

_UID = rb"(?:UI..|..\0\0)([0-9.]{1,64})\0?"
"""Pattern of a UID's value after its length, with explicit types ("UI" and two bytes) or implicit ones (four)."""

_SERIES = re.compile(rb"\x20\0\x0d\0" + _UID + rb"\x20\0\x0e\0" + _UID, re.DOTALL)
"""Pattern of (0020,000D) study and (0020,000E) series, adjacent in a data set but not in references."""


def dicom_series(path: Path) -> str | None:
    """Series UID of a DICOM file; None if there is none."""
    try:
        with path.open("rb") as file:
            found = _SERIES.search(file.read(_HEAD_BYTES))
    except OSError:
        return None
    return found[2].decode() if found else None


def named_by_hamamatsu(path: Path) -> Iterator[str]:
    """Absolute paths of the images that a .vms or .vmu file, lines of key=value, refers to."""
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError:
        return
    for line in lines:
        value = line.partition("=")[2].strip()
        if value and "\0" not in value:
            yield str(path.parent / value)
