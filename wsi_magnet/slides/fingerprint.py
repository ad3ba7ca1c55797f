"""A name for a slide's content where its format has none: cheap for any size, the same wherever the file lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

from wsi_magnet.geometry import Size

ENDS_BYTES = 1 << 20
"""Read at each end of the file: headers and directories lie there, and a copy of a gigapixel slide is not hashed whole
(tens of seconds) each time a worker opens it."""


def hash_ends(path: Path, size: Size) -> str:
    """sha256 over the file's length, its first and last MiB, and the extent of level 0."""
    length = path.stat().st_size
    digest = hashlib.sha256(f"{length} bytes, {size}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(ENDS_BYTES))
        file.seek(max(length - ENDS_BYTES, 0))
        digest.update(file.read(ENDS_BYTES))
    return digest.hexdigest()
