"""OME-Zarr pyramids of a result: whole tiles are written, any rectangle is read. Only this module imports zarr.

A tile is a whole number of chunks (with 0.5: one shard), so no two workers ever write one object and no lock is needed.
Chunks of zeros are not written. Each object is written to a temporary file, which is then renamed, so a killed worker
leaves the old object or the new one, never half of one; before a tile counts as done its objects are durable. In an
object store a chunk is one request, and durable when it is answered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr
import zarr.codecs
from zarr.storage import FsspecStore, StoreLike

from wsi_magnet.config import CHUNK_PX, Ngff
from wsi_magnet.errors import ResultMismatchError, StoreError
from wsi_magnet.geometry import Box, Size, ceil_div
from wsi_magnet.results.chunks import ChunkFiles
from wsi_magnet.storage.atomic import PARTIAL, sync
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import (
    Location,
    Url,
    awaited_filesystem,
    delete,
    exists,
    make_folder,
    parts_below,
    replace_bytes,
    size_bytes,
)

_METADATA = (".zgroup", ".zattrs", ".zarray", "zarr.json")
"""Files of Zarr v2 and v3 that describe a group or an array."""

_Codec = tuple[Literal["zstd", "lz4"], int]

_DURABLE: _Codec = ("zstd", 3)
"""Codec of images that are kept, as measured on real results by `python -m benchmarks.compression`: a mask takes 0.8 %
of its bytes and probabilities 18 %, where lz4 takes 2.8 and 33 %; higher levels save little and take several times as
long, and shuffling bits makes both larger. Blosc, because QuPath's reader opens no other codec that is as good."""

_TRANSIENT: _Codec = ("lz4", 5)
"""Codec of images that only the next scale reads: a third of the time, and the space is freed soon."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PyramidSpec:
    """Description of an image of a result, without its pixels."""

    path: Location
    """Folder of the group, "....ome.zarr"."""
    sizes: tuple[Size, ...]
    """Extent of each level, finest first; level i is the array named str(i)."""
    channels: int | None
    """Number of channels; None for a plain (y, x) image."""
    ngff: Ngff
    tile_px: int
    durable: bool = True
    """False for an image that is deleted when the run has ended."""

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """2 or 3."""
        return 2 if self.ngff == "0.4" else 3

    @property
    def lead(self) -> tuple[int, ...]:
        """Lengths of the axes before rows and columns: (channels,), or none of a plain image."""
        return () if self.channels is None else (self.channels,)


class Pyramid:
    """An image of a result on disk; cheap to open, holds no pixels."""

    def __init__(self, spec: PyramidSpec) -> None:
        self.spec = spec
        self._levels: dict[int, zarr.Array[Any]] = {}
        self._chunk_files: dict[int, ChunkFiles] = {}

    def create(self) -> None:
        """Make the group and its empty levels; levels that exist stay as they are. Raises StoreError."""
        with storage_errors(self.spec.path):
            zarr.open_group(_zarr_store(self.spec.path), mode="a", zarr_format=self.spec.zarr_format)
            for level, size in enumerate(self.spec.sizes):
                if not self.has_level(level):
                    delete(self.spec.path / str(level))
                    self._create_level(level, size)
                    self._sync_metadata(self.spec.path / str(level))
            self._sync_metadata(self.spec.path)

    def has_level(self, level: int) -> bool:
        """True if the array exists; its folder alone may be left by a run that was killed while creating it."""
        metadata = ".zarray" if self.spec.zarr_format == 2 else "zarr.json"
        with storage_errors(self.spec.path):
            return bool(size_bytes(self.spec.path / str(level) / metadata))

    def require(self, level: int) -> None:
        """Raise StoreError for a level that should exist and does not."""
        if not self.has_level(level):
            raise StoreError(f"{self.spec.path} has lost its level {level}; rebuild it with `wsi-magnet run --restart`")

    def stored(self, level: int, box: Box) -> bool:
        """False if no chunk of a box was written, so that all of it is 0; cheaper than reading it."""
        with storage_errors(self.spec.path):
            return any(exists(path) for path in self._objects(level, box))

    def _create_level(self, level: int, size: Size) -> None:
        lead = self.spec.lead
        names = ("c", "y", "x")[-2 - len(lead) :]
        shape, chunks = (*lead, *size.hw), (*lead, CHUNK_PX, CHUNK_PX)
        codec, effort = _DURABLE if self.spec.durable else _TRANSIENT
        common: dict[str, Any] = {"shape": shape, "chunks": chunks, "dtype": "uint8", "fill_value": 0}
        store = _zarr_store(self.spec.path / str(level))
        if self.spec.zarr_format == 2:
            zarr.create_array(
                store,
                zarr_format=2,
                compressors=numcodecs.Blosc(codec, effort, numcodecs.Blosc.NOSHUFFLE),
                chunk_key_encoding={"name": "v2", "separator": "/"},
                attributes={"_ARRAY_DIMENSIONS": list(names)},
                **common,
            )
        else:
            zarr.create_array(
                store,
                zarr_format=3,
                shards=(*lead, self.spec.tile_px, self.spec.tile_px),
                compressors=zarr.codecs.BloscCodec(cname=codec, clevel=effort, shuffle="noshuffle"),
                dimension_names=names,
                **common,
            )

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Replace the group's metadata atomically."""
        with storage_errors(self.spec.path):
            group = zarr.open_group(_zarr_store(self.spec.path), mode="r+", zarr_format=self.spec.zarr_format)
            group.attrs.put(dict(attributes))
            self._sync_metadata(self.spec.path)

    @staticmethod
    def _sync_metadata(folder: Location) -> None:
        """Synchronise the metadata that zarr wrote: zarr itself leaves that to the system."""
        if isinstance(folder, Path):
            for path in (*(folder / name for name in _METADATA), folder):
                if path.exists():
                    sync(path)

    def describe_ome(self, text: str) -> None:
        """Replace the OME-XML beside the levels atomically. Raises StoreError."""
        folder = self.spec.path / "OME"
        with storage_errors(self.spec.path):
            make_folder(folder)
            # A group, as OME-Zarr's layout has it: programs that list the image take no other folder.
            zarr.open_group(_zarr_store(folder), mode="a", zarr_format=self.spec.zarr_format)
            self._sync_metadata(folder)
            replace_bytes(folder / "METADATA.ome.xml", text.encode())

    def require_size(self, level: int) -> None:
        """Raise ResultMismatchError for an array of another shape than its level should have."""
        size = self.spec.sizes[level]
        expected = (*self.spec.lead, *size.hw)
        try:
            shape = tuple(self.level(level).shape)
        except (LookupError, TypeError, ValueError) as error:
            raise ResultMismatchError(
                f"{self.spec.path / str(level)} is damaged: its metadata describe no array ({type(error).__name__}); "
                "make the result again with `wsi-magnet run --restart`",
                cure="--restart",
            ) from error
        if shape != expected:
            raise ResultMismatchError(
                f"run.json or {self.spec.path / str(level)} is damaged: by run.json the array's shape is {expected}, "
                f"by its own metadata {shape}; make the result again with `wsi-magnet run --restart`",
                cure="--restart",
            )

    def level(self, level: int) -> zarr.Array[Any]:
        """The array of a level, uint8 ([channels,] rows, columns)."""
        if level not in self._levels:
            with storage_errors(self.spec.path):
                self._levels[level] = zarr.open_array(
                    _zarr_store(self.spec.path / str(level)), mode="r+", zarr_format=self.spec.zarr_format
                )
        return self._levels[level]

    def read(self, level: int, box: Box) -> Pixels:
        """uint8 ([channels,] box height, box width); the box lies inside the level. Raises StoreError."""
        rows, cols = box.slices_yx
        with storage_errors(self.spec.path):
            try:
                files = self._files(level)
                return files.read(box) if files else np.asarray(self.level(level)[..., rows, cols])
            except (RuntimeError, ValueError) as error:
                raise StoreError(
                    f"{self.spec.path}, level {level}: damaged at rows {box.y0} to {box.y1}, columns {box.x0} to "
                    f"{box.x1} ({error}); rebuild the result with `wsi-magnet run --restart`"
                ) from error

    def write(self, level: int, box: Box, pixels: Pixels) -> None:
        """Write a tile, uint8 ([channels,] box height, box width), durable when this returns. Raises StoreError."""
        rows, cols = box.slices_yx
        with storage_errors(self.spec.path):
            if (files := self._files(level)) and files.whole(box):
                files.write(box, pixels)
                return
            self.level(level)[..., rows, cols] = pixels
            written = [path for path in self._objects(level, box) if isinstance(path, Path) and path.exists()]
            for path in (*written, *{path.parent for path in written}):
                sync(path)

    def _files(self, level: int) -> ChunkFiles | None:
        """Chunk I/O of a level in Zarr v2; None in Zarr v3, whose chunks are inside shards."""
        if self.spec.zarr_format == 3:
            return None
        if level not in self._chunk_files:
            codec = self.level(level).metadata.compressor  # type: ignore[union-attr]
            size, folder = self.spec.sizes[level], self.spec.path / str(level)
            self._chunk_files[level] = ChunkFiles(folder, size, self.spec.channels, CHUNK_PX, codec)
        return self._chunk_files[level]

    def _objects(self, level: int, box: Box) -> Iterator[Location]:
        """Files or objects of a tile."""
        side = CHUNK_PX if self.spec.zarr_format == 2 else self.spec.tile_px
        root = self.spec.path / str(level)
        lead = "0" * len(self.spec.lead)
        base = root.joinpath(*lead) if self.spec.zarr_format == 2 else root.joinpath("c", *lead)
        for row in range(box.y0 // side, ceil_div(box.y1, side)):
            for col in range(box.x0 // side, ceil_div(box.x1, side)):
                yield base / str(row) / str(col)

    def remove_level(self, level: int) -> None:
        """Delete a level that is no longer needed; nothing where it does not exist."""
        self._levels.pop(level, None)
        self._chunk_files.pop(level, None)
        self._delete(self.spec.path / str(level))

    def remove(self) -> None:
        """Delete the whole image."""
        self._levels.clear()
        self._chunk_files.clear()
        self._delete(self.spec.path)

    @staticmethod
    def _delete(path: Location) -> None:
        """Delete if possible: what remains takes space and does no harm."""
        with suppress(StoreError), storage_errors(path):
            delete(path)

    def sweep(self) -> None:
        """Delete temporary files of killed writers; an object store has none."""
        if isinstance(self.spec.path, Path):
            for path in self.spec.path.rglob(f"*{PARTIAL}"):
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _LevelReader:
    """A level as dask indexes it: a value of few bytes, so that workers in other processes can read as well."""

    spec: PyramidSpec
    level: int

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        lead = () if self.spec.channels is None else (self.spec.channels,)
        return (*lead, *self.spec.sizes[self.level].hw)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: tuple[slice, ...]) -> Pixels:
        *lead, rows, cols = (
            range(*one.indices(length)) for one, length in zip(index, self.shape, strict=True)
        )  # dask's slices, all of them forward
        if any(len(one) == 0 for one in (*lead, rows, cols)):
            return np.zeros([len(one) for one in (*lead, rows, cols)], np.uint8)
        found = _opened(self.spec).read(self.level, Box(cols[0], rows[0], cols[-1] + 1, rows[-1] + 1))
        steps = (slice(None, None, rows.step), slice(None, None, cols.step))
        return found[(*(slice(one.start, one.stop, one.step) for one in lead), *steps)]


@lru_cache(maxsize=16)
def _opened(spec: PyramidSpec) -> Pyramid:
    return Pyramid(spec)


def lazy_level(spec: PyramidSpec, level: int) -> Any:
    """A level as a dask array, uint8 ([channels,] rows, columns); no pixel is read before it is computed.

    A chunk is a tile of the run. Computing raises StoreError for a chunk that is damaged.
    """
    from dask.array import from_array  # only here: `status` and `--help` do without Dask

    reader = _LevelReader(spec, level)
    chunks = (*reader.shape[:-2], spec.tile_px, spec.tile_px)
    meta = np.empty((0,) * reader.ndim, np.uint8)
    return from_array(reader, chunks, asarray=False, fancy=False, meta=meta)


def majority(pixels: Pixels) -> Pixels:
    """Halve labels, uint8 (2h, 2w) to (h, w): the most frequent of each four; of equals, the first in reading order."""
    a, b, c, d = (np.ascontiguousarray(pixels[row::2, col::2]) for row in (0, 1) for col in (0, 1))
    found = _either(c == d, c, a)
    found = _either((b == c) | (b == d), b, found)
    return _either((a == b) | (a == c) | (a == d), a, found)


def _either(first: npt.NDArray[np.bool_], a: Pixels, b: Pixels) -> Pixels:
    """Equal to `np.where`, which takes one pixel at a time where this takes 64."""
    chosen: Pixels = b ^ ((a ^ b) & np.negative(first.view(np.uint8)))
    return chosen


def mean(pixels: Pixels) -> Pixels:
    """Halve grey values, uint8 (..., 2h, 2w) to (..., h, w): the mean of each four, rounded."""
    wide = pixels.astype(np.uint16)
    total = wide[..., 0::2, 0::2] + wide[..., 0::2, 1::2] + wide[..., 1::2, 0::2] + wide[..., 1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def halve_tile(pyramid: Pyramid, level: int, box: Box, *, labels: bool) -> None:
    """Fill a tile of `level` from the level below it (twice as fine); an odd last row or column is repeated."""
    fine = Box(box.x0 * 2, box.y0 * 2, box.x1 * 2, box.y1 * 2).intersect(Box.of(pyramid.spec.sizes[level - 1]))
    pixels = pyramid.read(level - 1, fine)
    lead = [(0, 0)] * (pixels.ndim - 2)
    pixels = np.pad(pixels, [*lead, (0, pixels.shape[-2] % 2), (0, pixels.shape[-1] % 2)], mode="edge")
    pyramid.write(level, box, majority(pixels) if labels else mean(pixels))


def replace_text(path: Location, text: str) -> None:
    """Write a file atomically; durable when this returns. Raises StoreError."""
    with storage_errors(path):
        replace_bytes(path, text.encode())


def _zarr_store(path: Location) -> StoreLike:
    """The store that zarr opens for a location."""
    if isinstance(path, Url):
        return FsspecStore(awaited_filesystem(path.protocol), path=path.key)
    return path


def write_group(path: Path, attributes: Mapping[str, Any]) -> None:
    """Create a group of Zarr v3. Raises StoreError."""
    with storage_errors(path):
        zarr.open_group(path, mode="w", zarr_format=3, attributes=dict(attributes))


def write_values(path: Path, values: npt.NDArray[Any] | Sequence[str] | str, attributes: Mapping[str, Any]) -> None:
    """Create an array of Zarr v3, small enough for one chunk: numbers, or texts of any length. Raises StoreError."""
    content = values if isinstance(values, np.ndarray) else np.array(values, np.dtypes.StringDType())
    with storage_errors(path):
        zarr.create_array(path, data=content, zarr_format=3, attributes=dict(attributes))


def count_chunks(path: Location) -> int:
    """Number of stored chunks (in Zarr v3: shards) of an image, from one listing. Raises StoreError."""
    with storage_errors(path):
        return sum(not name.endswith(PARTIAL) and name not in _METADATA for name in _names_in_levels(path))


def _names_in_levels(path: Location) -> Iterator[str]:
    if isinstance(path, Url):
        for parts in parts_below(path):
            if len(parts) > 1 and parts[0].isdigit():
                yield parts[-1]
        return
    for level in path.iterdir() if path.is_dir() else ():
        if level.name.isdigit():
            for _, _, files in os.walk(level):
                yield from files


def read_attributes(path: Location) -> dict[str, Any]:
    """All attributes of a group. Raises StoreError where there is none."""
    with storage_errors(path):
        try:
            return dict(zarr.open_group(_zarr_store(path), mode="r").attrs)
        except (LookupError, TypeError, ValueError) as error:
            raise StoreError(f"{path} is no OME-Zarr image ({type(error).__name__}: {error})") from error


def open_finest(path: Location) -> tuple[zarr.Array[Any], Mapping[str, Any]]:
    """Open an image of any program for reading, Zarr v2 or v3: the finest array of an OME-Zarr image, or a plain array.

    Returns it and OME-Zarr's metadata, empty for a plain array. Raises StoreError.
    """
    with storage_errors(path):
        try:
            node = zarr.open(_zarr_store(path), mode="r")
            if isinstance(node, zarr.Array):
                return node, {}
            attributes = dict(node.attrs)
            metadata: Any = attributes.get("ome", attributes)
            array = node[metadata["multiscales"][0]["datasets"][0]["path"]]
        except (LookupError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path} is neither a Zarr array nor an OME-Zarr image ({type(error).__name__})"
            ) from error
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path}: its finest level is no array")
    return array, metadata
