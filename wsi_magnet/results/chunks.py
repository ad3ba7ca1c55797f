"""Chunk I/O of a Zarr v2 array: chunks are read and written as files or objects by the calling threads.

The zarr library passes every chunk through one event loop of the process, about two milliseconds of Python each, and
threads that feed a GPU queue up for it. The format itself is a few lines: one file or object a chunk, named by its row
and column, with the codec's bytes of the whole chunk; none for a chunk of zeros. zarr makes and describes the arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from wsi_magnet.geometry import Box, Size, ceil_div
from wsi_magnet.storage.atomic import atomic_file, sync
from wsi_magnet.storage.location import Location, Url, delete_object, make_folder, read_bytes, replace_bytes

Pixels = npt.NDArray[np.uint8]

WRITERS = 8
"""Chunks that a process compresses and synchronises at once: a disk takes as long for eight as for one."""


@dataclass(frozen=True, eq=False)
class ChunkFiles:
    """The chunks of one array, uint8 ([channels,] rows, columns), whose channels are not divided."""

    folder: Location
    size: Size
    channels: int | None
    side: int
    """Side of a chunk in pixels."""
    codec: Any
    """A numcodecs codec."""

    def path(self, row: int, col: int) -> Location:
        """Location of a chunk, whether it exists or not."""
        lead = () if self.channels is None else ("0",)
        return self.folder.joinpath(*lead, str(row), str(col))

    def whole(self, box: Box) -> bool:
        """True for a box of whole chunks, cut at the array's edge: only such boxes may be written."""
        starts = box.x0 % self.side == box.y0 % self.side == 0
        ends_x = box.x1 % self.side == 0 or box.x1 == self.size.width
        return starts and ends_x and (box.y1 % self.side == 0 or box.y1 == self.size.height)

    def read(self, box: Box) -> Pixels:
        """uint8 ([channels,] box height, box width); the box lies inside the array.

        Raises OSError, and RuntimeError or ValueError for a chunk that is damaged.
        """
        found = np.zeros((*self._lead, *box.size.hw), np.uint8)
        for row, col, chunk in self._chunks(box):
            part = chunk.intersect(box)
            pixels = self._load(self.path(row, col))
            if pixels is not None:
                rows, cols = part.relative_to(box).slices_yx
                own_rows, own_cols = part.relative_to(chunk).slices_yx
                found[..., rows, cols] = pixels[..., own_rows, own_cols]
        return found

    def write(self, box: Box, pixels: Pixels) -> None:
        """Write whole chunks, cut at the array's edge, several at once; durable when this returns. Raises OSError.

        Each chunk is written atomically, and the names of all are synchronised once at the end.
        """
        parts = [
            (self.path(row, col), pixels[(..., *chunk.intersect(box).relative_to(box).slices_yx)])
            for row, col, chunk in self._chunks(box)
        ]
        folders = {path.parent for path, _ in parts}
        for folder in folders:
            make_folder(folder)
        if len(parts) == 1:
            self._store(*parts[0])
        else:
            writing = [_writers().submit(self._store, *part) for part in parts]
            wait(writing)  # all of them, also where one fails: no write continues after this returns
            for one in writing:
                one.result()
        for folder in folders:
            if isinstance(folder, Path):
                sync(folder)

    @property
    def _lead(self) -> tuple[int, ...]:
        return () if self.channels is None else (self.channels,)

    def _chunks(self, box: Box) -> Iterator[tuple[int, int, Box]]:
        """(row, column, box) of the chunks that a box touches."""
        for row in range(box.y0 // self.side, ceil_div(box.y1, self.side)):
            for col in range(box.x0 // self.side, ceil_div(box.x1, self.side)):
                x, y = col * self.side, row * self.side
                yield row, col, Box(x, y, x + self.side, y + self.side)

    def _load(self, path: Location) -> Pixels | None:
        """Pixels of a chunk; None where none was written."""
        try:
            packed = read_bytes(path)
        except FileNotFoundError:
            return None
        return np.frombuffer(self.codec.decode(packed), np.uint8).reshape(*self._lead, self.side, self.side)

    def _store(self, path: Location, pixels: Pixels) -> None:
        if not pixels.any():
            delete_object(path) if isinstance(path, Url) else path.unlink(missing_ok=True)
            return
        whole = pixels
        if pixels.shape[-2:] != (self.side, self.side):
            whole = np.zeros((*self._lead, self.side, self.side), np.uint8)
            whole[..., : pixels.shape[-2], : pixels.shape[-1]] = pixels
        packed = self.codec.encode(np.ascontiguousarray(whole))
        if isinstance(path, Url):
            replace_bytes(path, packed)
            return
        with atomic_file(path, unique=uuid4().hex, sync_name=False) as file:
            file.write(packed)


@cache
def _writers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WRITERS, thread_name_prefix="write")
