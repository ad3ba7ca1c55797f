"""Stored pixels of label images, without conversion to colours: PNG decoded whole, TIFF strip by strip or tile by tile.

JPEG, also inside a TIFF, is refused: it changes labels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL.PngImagePlugin import PngImageFile
from tifffile import COMPRESSION, PHOTOMETRIC, RESUNIT

from wsi_magnet.annotations.labels import COLOUR, NOTHING, Codes, colour_codes, value_codes
from wsi_magnet.errors import AnnotationError, SlideOpenError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.slides.colour import samples_to_rgb
from wsi_magnet.slides.image import JPEG_MAGIC, MOST_DECODED_PIXELS, PNG_MAGIC, TIFF_MAGIC
from wsi_magnet.slides.mpp import MppXY, mpp_from_tiff_tags
from wsi_magnet.slides.tiff import TiffPixels

Stored = npt.NDArray[Any]
"""(height, width, samples per pixel), as stored."""

DECODE_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""Errors that Pillow, tifffile, imagecodecs and zarr raise for a damaged file."""


class LabelPixels(Protocol):
    """The pixels of a label image; safe to read from several threads."""

    size: Size
    mpp_xy: MppXY | None
    """Microns per pixel, if the file states them; otherwise None."""

    def read(self, box: Box) -> Stored:
        """Stored pixels of a rectangle inside the image."""
        ...

    def codes(self, stored: Stored) -> Codes:
        """Codes (height, width) of stored pixels (height, width, samples); see `labels`."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn decoders' errors into an AnnotationError that names the file."""
    try:
        yield
    except AnnotationError:
        raise
    except DECODE_ERRORS as error:
        text = (str(error).splitlines() or [""])[0]
        why = text if " " in text else f"damaged or cut short ({type(error).__name__})"
        raise AnnotationError(f"{path} cannot be read as a label image: {why}") from error


def open_picture(path: Path, magic: bytes, *, colours: bool) -> LabelPixels:
    """Open a PNG or TIFF, recognised by the file's first bytes. colours: labels are colours; see `labels`.

    Raises AnnotationError.
    """
    with decoding(path):
        if magic.startswith(PNG_MAGIC):
            return PngLabels(path, colours=colours)
        if magic.startswith(TIFF_MAGIC):
            return TiffLabels(path, colours=colours)
    if magic.startswith(JPEG_MAGIC):
        raise AnnotationError(f"{path} is a JPEG, which changes labels; save label images as PNG or TIFF")
    raise AnnotationError(f"{path} is not a PNG or TIFF")


class PngLabels:
    """A PNG: decoded at the first read, then kept as an index into its codes, one or two bytes per pixel."""

    def __init__(self, path: Path, *, colours: bool) -> None:
        self._picture: PngImageFile | None = PngImageFile(path)
        self.size = Size(*self._picture.size)
        self.mpp_xy: MppXY | None = None  # a PNG has at most a print resolution
        if self.size.pixels > MOST_DECODED_PIXELS:
            self._picture.close()
            raise AnnotationError(
                f"{path}: {self.size} pixels are more than the {MOST_DECODED_PIXELS:,} that can be decoded at once; "
                f"save it as a tiled TIFF"
            )
        self._colours = colours
        self._kept: tuple[Stored, Codes | None] | None = None
        self._lock = Lock()

    def read(self, box: Box) -> Stored:
        """See `LabelPixels.read`."""
        with self._lock:
            if self._kept is None:
                self._kept = self._decode()
        return np.asarray(self._kept[0][box.slices_yx][..., None])

    def codes(self, stored: Stored) -> Codes:
        """See `LabelPixels.codes`."""
        assert self._kept is not None  # stored pixels come from `read`
        table = self._kept[1]
        return value_codes(stored[..., 0]) if table is None else table[stored[..., 0]]

    def close(self) -> None:
        """Release the file and its pixels."""
        if self._picture is not None:
            self._picture.close()
        self._picture = self._kept = None

    def _decode(self) -> tuple[Stored, Codes | None]:
        picture = self._picture
        if picture is None:
            raise ValueError("it is closed")
        grey_step = _grey_step(picture)
        if picture.mode.startswith("I") or (picture.mode in ("1", "L", "P") and not self._colours):
            values = np.asarray(picture)
            return (values // np.uint8(grey_step) if grey_step > 1 else values), None
        rgb = np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
        return _compact(rgb)


def _grey_step(picture: PngImageFile) -> int:
    # Pillow scales greys of 2 and 4 bits to 0..255; the labels are the stored values.
    raw_modes = [tile[3] for tile in picture.tile]
    return {"L;2": 85, "L;4": 17}.get(str(raw_modes[0]) if raw_modes else "", 1)


def _compact(samples: npt.NDArray[np.uint8]) -> tuple[Stored, Codes]:
    """Colours as a compact index (height, width), and the codes that it points to."""
    keys = np.zeros(samples.shape[:2], np.int32)
    for channel in range(3):
        keys = keys << 8 | samples[..., channel]
    clear = 1 << 24
    if samples.shape[-1] > 3:
        keys[samples[..., 3] == 0] = clear
    # A flag for each possible colour: sorting the pixels takes ten times as long.
    seen = np.zeros(clear + 1, bool)
    seen[keys] = True
    found = np.flatnonzero(seen)
    places = np.zeros(clear + 1, np.min_scalar_type(len(found)))
    places[found] = np.arange(len(found))
    return places[keys], np.where(found == clear, NOTHING, found + COLOUR).astype(np.int64)


class _TiffSamples(TiffPixels):
    """A TIFF's page with its stored samples, before conversion to colours."""

    kinds, most_bits = "bui", 32

    def samples(self, box: Box) -> Stored:
        return self._stored(box) if self._whole is None else self._mapped(self._whole, box)


class TiffLabels:
    """The first page of a TIFF, read strip by strip or tile by tile; coarser pages are ignored."""

    def __init__(self, path: Path, *, colours: bool) -> None:
        try:
            self._tiff = _TiffSamples(path)
        except SlideOpenError as error:
            # The remedy for slides would be wrong for labels.
            what, _, remedy = str(error).partition("; ")
            remedy = "save it with whole numbers of at most 32 bits per pixel" if "RGB" in remedy else remedy
            raise AnnotationError(f"{path} cannot be read as a label image: {what}; {remedy}") from error
        self._page = self._tiff.page
        self.size = self._tiff.size
        x, y = self._page.get_resolution()
        self.mpp_xy, _ = mpp_from_tiff_tags(x, y, RESUNIT(self._page.resolutionunit).name)
        self._rgb = self._page.photometric == PHOTOMETRIC.RGB
        self._painted = colours or self._page.photometric == PHOTOMETRIC.SEPARATED
        if self._page.compression in (COMPRESSION.JPEG, COMPRESSION.OJPEG):
            self.close()
            raise AnnotationError(f"{path} is compressed as JPEG, which changes labels; save it with LZW or deflate")
        if self._rgb and self._page.bitspersample != 8:
            self.close()
            raise AnnotationError(f"{path} has colours of {self._page.bitspersample} bits; save it with 8")

    def read(self, box: Box) -> Stored:
        """See `LabelPixels.read`."""
        return self._tiff.samples(box)

    def codes(self, stored: Stored) -> Codes:
        """See `LabelPixels.codes`."""
        if self._rgb:
            return colour_codes(stored if self._alpha_at(3) else stored[..., :3])
        if self._painted:
            return colour_codes(samples_to_rgb(self._page, stored))
        codes = value_codes(stored[..., 0])
        if self._page.photometric == PHOTOMETRIC.MINISWHITE:
            codes = (1 << int(self._page.bitspersample)) - 1 - codes
        if self._alpha_at(1):
            codes[stored[..., 1] == 0] = NOTHING
        return codes

    def close(self) -> None:
        """Release the file."""
        self._tiff.close()

    def _alpha_at(self, sample: int) -> bool:
        return self._page.samplesperpixel > sample and tuple(self._page.extrasamples[:1]) in ((1,), (2,))
