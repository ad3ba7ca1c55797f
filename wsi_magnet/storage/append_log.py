"""Append-only log: one process adds lines, any process reads them; a file, or numbered objects in an object store.

Only whole lines count. In an object store lines are collected for a moment, so that not each becomes an object; a
killed process loses that moment.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from wsi_magnet.storage.atomic import sync
from wsi_magnet.storage.conditional import create_bytes
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import (
    Location,
    Url,
    delete_object,
    names,
    read_all,
    read_bytes,
    replace_bytes,
    size_bytes,
)

WAIT_S = 2.0
"""Longest time for which a line waits for others in an object store."""

FLUSH_EVERY_S = 1.0
"""Interval at which lines of a file are made durable."""

WAIT_LINES = 64
"""Greatest number of lines that wait."""


class Lines(Protocol):
    """A log that is open for appending."""

    def add(self, line: bytes) -> None:
        """Append a line, given without its newline. Raises StoreError."""
        ...

    def flush(self) -> None:
        """Make all lines durable. Raises StoreError."""
        ...

    def close(self, *, compact: bool) -> None:
        """Make all lines durable, and close the log. compact: also join the objects to one, which only the owner may
        do.

        Raises StoreError.
        """
        ...


def open_lines(path: Location) -> Lines:
    """Open a log for appending. Raises StoreError."""
    return _ObjectLines(path) if isinstance(path, Url) else _FileLines(path)


def read_lines(path: Location) -> Iterator[bytes]:
    """Every whole line, without its newline, in order; none where there is no log.

    Raises StoreError.
    """
    if isinstance(path, Url):
        with storage_errors(path):
            yield from _whole(b"".join(_objects(path)))
    elif path.exists():
        with storage_errors(path), path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]


class _FileLines:
    """Log in a file: passes every line to the system at once, so that no kill loses it, and synchronises each second.

    Synchronising each line would limit a slide to a few hundred tiles a second.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            _end_with_newline(path)
            is_new = not path.exists()
            self._file = path.open("ab", buffering=0)  # a failed write leaves nothing to be flushed again at close
            if is_new:
                sync(path.parent)
        self._flushed_at = time.monotonic()

    def add(self, line: bytes) -> None:
        with storage_errors(self._path):
            self._file.write(line + b"\n")
        if time.monotonic() - self._flushed_at > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        with storage_errors(self._path):
            os.fsync(self._file.fileno())
        self._flushed_at = time.monotonic()

    def close(self, *, compact: bool) -> None:
        try:
            self.flush()
        finally:
            with storage_errors(self._path):
                self._file.close()


class _ObjectLines:
    """Log in an object store: a thread writes the collected lines; the next call raises its errors."""

    def __init__(self, path: Url) -> None:
        self._path = path
        self._waiting: list[bytes] = []
        self._error: Exception | None = None
        self._sending = 0
        self._hurried = self._closing = False
        self._changed = threading.Condition()
        with storage_errors(path):
            self._number = 1 + max((int(name.partition("-")[0]) for name in _parts(path)), default=-1)
        self._sender = threading.Thread(target=self._send_all, name="journal", daemon=True)
        self._sender.start()

    def add(self, line: bytes) -> None:
        with self._changed:
            self._raise()
            self._waiting.append(line)
            self._changed.notify_all()

    def flush(self) -> None:
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._error or not (self._waiting or self._sending))
            self._hurried = False
            self._raise()

    def close(self, *, compact: bool) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._sender.join()
        self._raise()
        if compact:
            with storage_errors(self._path):
                _join(self._path)

    def _raise(self) -> None:
        if self._error is not None:
            with storage_errors(self._path):
                raise self._error

    def _send_all(self) -> None:
        try:
            while lines := self._next():
                # The name is unique: a process that returns from a long pause overwrites nothing of its successor.
                name = f"{self._number:06d}-{uuid4().hex[:8]}.jsonl"
                create_bytes(_folder(self._path) / name, b"\n".join(lines) + b"\n")
                self._number += 1
                self._sent()
        except Exception as error:
            self._sent(error)

    def _next(self) -> list[bytes]:
        """The lines of the next object; none once the log is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(
                lambda: len(self._waiting) >= WAIT_LINES or self._hurried or self._closing, timeout=WAIT_S
            )
            lines, self._waiting = self._waiting, []
            self._sending = len(lines)
            return lines

    def _sent(self, error: Exception | None = None) -> None:
        with self._changed:
            self._sending, self._error = 0, error
            self._changed.notify_all()


def _folder(path: Url) -> Url:
    return path.with_name(path.name.removesuffix(path.suffix))


def _parts(path: Url) -> list[str]:
    """Names of the numbered objects, in order."""
    return [name for name in names(_folder(path)) if name.partition("-")[0].isdigit()]


def _objects(path: Url) -> list[bytes]:
    """Contents of the joined object and of the numbered ones, in order."""
    joined = [read_bytes(path)] if size_bytes(path) is not None else []
    return [*joined, *read_all(_folder(path) / name for name in _parts(path))]


def _join(path: Url) -> None:
    """Join all objects to one; killed in between, some lines are there twice, which is harmless."""
    parts = [_folder(path) / name for name in _parts(path)]
    if parts:
        joined = [read_bytes(path)] if size_bytes(path) is not None else []
        replace_bytes(path, b"".join([*joined, *read_all(parts)]))
        for part in parts:
            delete_object(part)


def _whole(text: bytes) -> list[bytes]:
    return text.split(b"\n")[:-1]


def _end_with_newline(path: Path) -> None:
    """Close a torn last line, so that the next one does not become part of it."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
