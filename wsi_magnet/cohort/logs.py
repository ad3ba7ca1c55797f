"""Logs and journals read from outside, while they are written to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from wsi_magnet.storage.append_log import read_lines
from wsi_magnet.storage.location import Location


class Log:
    """A log as it is now. Raises StoreError where it cannot be read."""

    def __init__(self, path: Location) -> None:
        self._lines = list(read_lines(path))

    def last(self, event: str | None = None) -> dict[str, Any] | None:
        """The last line, or the last that tells of an event; None where none does."""
        wanted = b"" if event is None else f'"event": {json.dumps(event)}'.encode()
        found = next((line for line in reversed(self._lines) if wanted in line), b"null")
        with suppress(ValueError):
            values = json.loads(found)
            return values if isinstance(values, dict) else None
        return None

    @property
    def told_at(self) -> float | None:
        """When its last line was written, seconds since 1970."""
        values = self.last()
        with suppress(ValueError, LookupError, TypeError):
            return datetime.fromisoformat(values["time"]).timestamp() if values else None
        return None


def tiles_done(journal: Location, scale: int) -> int:
    """Of a scale. Raises StoreError."""
    begin = f'{{"tile":[{scale},'.encode()
    return sum(line.startswith(begin) for line in read_lines(journal))


def changed(places: Iterable[Location]) -> list[float]:
    """When files of this machine that are there were last written to, seconds since 1970; objects are not asked for."""
    times = []
    for path in places:
        with suppress(OSError):
            if isinstance(path, Path):
                times.append(path.stat().st_mtime)
    return times
