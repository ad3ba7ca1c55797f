"""Pixels of a TIFF's first page, read strip by strip or tile by tile, for files that OpenSlide declines."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import BoundedSemaphore, Lock

import numpy as np
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage, memmap

from wsi_magnet.errors import SlideOpenError
from wsi_magnet.geometry import Box, Size, ceil_div
from wsi_magnet.slides.colour import COLOURS, Samples, samples_to_rgb
from wsi_magnet.slides.types import Image

CACHE_BYTES = 256 << 20
"""Memory of decoded strips and tiles: a strip is as wide as the image, and all regions of a row need the same ones."""

MOST_DECODED_AT_ONCE = 16
"""Segments that threads decode at the same time, fewer where these would take more memory than the cache."""

MOST_SEGMENT_PIXELS = 1 << 28
"""Most pixels of a strip: it can only be decoded whole, here to 1 GB or more."""

MOST_PAGES = 64
"""Most pages that are checked for a truncated file: pyramids have about ten."""

_JPEGS = (COMPRESSION.JPEG, COMPRESSION.OJPEG)


class TiffPixels:
    """Pixels of one page; several threads may read."""

    kinds, most_bits = "bu", 16
    """Kinds of numbers that are read, as NumPy names them, and their most bits."""

    def __init__(self, path: Path) -> None:
        """Read the page's directory. Raises SlideOpenError for pixels that cannot be converted to RGB."""
        self._file = TiffFile(path)  # kept open: its pages read longer tags on access
        try:
            self.page = _checked(self._file, self.kinds, self.most_bits)
        except BaseException:
            self._file.close()
            raise
        self.size = Size(self.page.imagewidth, self.page.imagelength)
        self._whole = memmap(path, page=0, mode="r") if self.page.is_memmappable else None
        self.cache_bytes = 0 if self._whole is not None else _cache_bytes(self.page)
        self._file_lock = Lock()
        self._cache = _SegmentCache(self._decode, _segment_bytes(self.page))

    def read(self, box: Box) -> Image:
        """uint8 (box height, box width, 3) RGB. Raises whatever tifffile's decoders raise."""
        return samples_to_rgb(self.page, self._stored(box) if self._whole is None else self._mapped(self._whole, box))

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        self._whole = None

    def _mapped(self, whole: Samples, box: Box) -> Samples:
        planar = self._planes > 1
        part = whole[(slice(None), *box.slices_yx)] if planar else whole[box.slices_yx]
        return np.moveaxis(part, 0, -1) if planar else part.reshape(*box.size.hw, -1)

    @property
    def _planes(self) -> int:
        return int(self.page.samplesperpixel) if self.page.planarconfig == 2 else 1

    def _stored(self, box: Box) -> Samples:
        samples = np.zeros((*box.size.hw, self.page.samplesperpixel), self.page.dtype)
        for plane, segment_box, segment in self._segments(box):
            common = segment_box.intersect(box)
            target = samples if self._planes == 1 else samples[..., plane : plane + 1]
            target[common.relative_to(box).slices_yx] = segment[common.relative_to(segment_box).slices_yx]
        return samples

    def _segments(self, box: Box) -> Iterator[tuple[int, Box, Samples]]:
        """(Plane, box, pixels) of each strip or tile that a box touches."""
        grid = _segment_size(self.page)
        rows, columns = ceil_div(self.size.height, grid.height), ceil_div(self.size.width, grid.width)
        for plane in range(self._planes):
            for row in range(box.y0 // grid.height, ceil_div(box.y1, grid.height)):
                for column in range(box.x0 // grid.width, ceil_div(box.x1, grid.width)):
                    segment = self._cache.get((plane * rows + row) * columns + column)
                    height, width = segment.shape[:2]
                    yield plane, Box.of(Size(width, height)).shift(column * grid.width, row * grid.height), segment

    def _decode(self, index: int) -> Samples:
        page = self.page
        with self._file_lock:  # the page reads its longer tags through the same handle
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(page.databytecounts[index])
            jpeg = page.compression in _JPEGS
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if jpeg else {}
            decode = page.decode
        segment, _, shape = decode(data, index, **tables)
        if segment is None:  # a tile that was never written
            return np.zeros(shape[1:], page.dtype)
        pixels: Samples = segment[0]
        return pixels


class _SegmentCache:
    """The most recently used segments, up to `CACHE_BYTES`, but always the last one.

    Threads decode different segments at the same time; threads that need the same one wait for the first of them.
    """

    def __init__(self, decode: Callable[[int], Samples], segment_bytes: int) -> None:
        """segment_bytes: memory of a decoded segment."""
        self._decode = decode
        self._lock = Lock()
        self._segments: OrderedDict[int, Future[Samples]] = OrderedDict()
        self._bytes = 0
        self._turns = BoundedSemaphore(min(max(CACHE_BYTES // max(segment_bytes, 1), 1), MOST_DECODED_AT_ONCE))

    def get(self, index: int) -> Samples:
        """A segment, decoded if it is not in the cache. Raises whatever the decoder raises."""
        with self._lock:
            known = self._segments.get(index)
            segment = known or self._segments.setdefault(index, Future())
            self._segments.move_to_end(index)
        return segment.result() if known else self._fill(index, segment)

    def _fill(self, index: int, segment: Future[Samples]) -> Samples:
        try:
            with self._turns:
                pixels = self._decode(index)
        except BaseException as error:
            with self._lock:
                del self._segments[index]
            segment.set_exception(error)
            raise
        with self._lock:
            segment.set_result(pixels)
            self._bytes += pixels.nbytes
            while self._bytes > CACHE_BYTES and (oldest := self._oldest_but(index)) is not None:
                self._bytes -= self._segments.pop(oldest).result().nbytes
        return pixels

    def _oldest_but(self, index: int) -> int | None:
        return next((one for one, segment in self._segments.items() if segment.done() and one != index), None)


def _checked(file: TiffFile, kinds: str, most_bits: int) -> TiffPage:
    """The first page. Raises SlideOpenError for pixels that cannot be converted, and for a truncated file."""
    needed, there = max(_ends(file)), file.filehandle.size
    if needed > there:
        raise SlideOpenError(f"a TIFF cut short: {there:,} bytes of {needed:,} or more; copy it again")
    page = file.pages.first
    kind = _unreadable(page, kinds, most_bits)
    if kind:
        raise SlideOpenError(f"a TIFF of {kind}; save it as 8-bit RGB in tiles")
    return page


def _ends(file: TiffFile) -> Iterator[int]:
    """Ends of the file's parts, according to its first pages.

    A truncated slide has lost the end of its pyramid and is declined by OpenSlide; it must not pass as a plain image
    because level 0 is complete.
    """
    page = file.pages.first
    for _ in range(MOST_PAGES):
        yield from (offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))
        following = _next_page(file, page)
        yield following
        if not 0 < following < file.filehandle.size:
            return
        file.filehandle.seek(following)
        page = TiffPage(file, index=page.index + 1)


def _next_page(file: TiffFile, page: TiffPage) -> int:
    """Offset of the directory after a page's; 0 after the last. Tifffile's own list only logs a damaged one."""
    layout, handle = file.tiff, file.filehandle
    handle.seek(page.offset)
    (tags,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    handle.seek(page.offset + layout.tagnosize + tags * layout.tagsize)
    return int(struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))[0])


def _unreadable(page: TiffPage, kinds: str, most_bits: int) -> str:
    """Description of pixels that cannot be read; empty if all can."""
    if page.dtype is None or page.dtype.kind not in kinds or page.bitspersample > most_bits:
        return f"{page.dtype} pixels"
    if page.photometric not in COLOURS or page.samplesperpixel < COLOURS[PHOTOMETRIC(page.photometric)]:
        return f"{page.samplesperpixel} samples a pixel, photometric {page.photometric}"
    if page.photometric == PHOTOMETRIC.YCBCR and page.compression not in _JPEGS:
        return "YCbCr pixels without JPEG"
    if page.photometric == PHOTOMETRIC.PALETTE and page.colormap is None:
        return "palette pixels without a palette"
    if page.imagedepth > 1:
        return f"{page.imagedepth} planes in depth"
    segment = _segment_size(page)
    if segment.pixels > MOST_SEGMENT_PIXELS and not page.is_memmappable:
        return f"strips of {segment} pixels"
    return ""


def _cache_bytes(page: TiffPage) -> int:
    """Most memory of the segment cache: its limit, or one segment if that is larger; less for a small image."""
    grid, segment = _segment_size(page), _segment_bytes(page)
    columns, rows = ceil_div(page.imagewidth, grid.width), ceil_div(page.imagelength, grid.height)
    planes = 1 if page.planarconfig == 1 else page.samplesperpixel
    return int(min(segment * columns * rows * planes, max(segment, CACHE_BYTES)))


def _segment_bytes(page: TiffPage) -> int:
    assert page.dtype is not None  # `_unreadable` refuses it
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return int(_segment_size(page).pixels * page.dtype.itemsize * samples)


def _segment_size(page: TiffPage) -> Size:
    if page.is_tiled:
        return Size(page.tilewidth, page.tilelength)
    return Size(page.imagewidth, min(page.rowsperstrip or page.imagelength, page.imagelength))
