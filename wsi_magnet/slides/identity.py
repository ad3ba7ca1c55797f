"""Identity of a slide's content, for formats without one: cheap at any size and independent of the path."""

from __future__ import annotations

import hashlib
from pathlib import Path

from wsi_magnet.geometry import Size

ENDS_BYTES = 1 << 20
"""Bytes read at each end of the file, where headers and directories lie. Hashing a whole gigapixel slide takes tens of
seconds, each time a worker opens it."""


def hash_ends(path: Path, size: Size) -> str:
    """SHA-256 of the file's length, its first and last MiB, and the size of level 0. Raises OSError."""
    length = path.stat().st_size
    digest = hashlib.sha256(f"{length} bytes, {size}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(ENDS_BYTES))
        file.seek(max(length - ENDS_BYTES, 0))
        digest.update(file.read(ENDS_BYTES))
    return digest.hexdigest()
