"""Reader of plain images as slides of one level: PNG and JPEG decoded whole, TIFF strip by strip or tile by tile.

Pixels keep the order in which they are stored, as in OpenSlide and QuPath: the EXIF orientation is ignored.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import NoReturn, Protocol

import numpy as np
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from tifffile import RESUNIT

from wsi_magnet.errors import SlideOpenError, SlideReadError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.slides.colour import on_white
from wsi_magnet.slides.identity import hash_ends
from wsi_magnet.slides.mpp import MppXY, mpp_from_tiff_tags
from wsi_magnet.slides.tiff import TiffPixels
from wsi_magnet.slides.types import Image, Level, SlideInfo

MOST_DECODED_PIXELS = 500_000_000
"""Most pixels of a PNG or JPEG: it can only be decoded whole, and 1.5 GB is the most that a worker can hold."""

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC, JPEG_MAGIC = b"\x89PNG", b"\xff\xd8\xff"


class Pixels(Protocol):
    """Pixels of an image file of any format."""

    size: Size
    cache_bytes: int
    """Most memory of decoded pixels that are kept, in bytes."""

    def read(self, box: Box) -> Image:
        """uint8 (box height, box width, 3) RGB."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def open_image(path: Path) -> ImageReader:
    """Open a PNG, JPEG or TIFF. Raises SlideOpenError with the reason, OSError where the file cannot be read."""
    with path.open("rb") as file:
        magic = file.read(4)
    try:
        if magic in TIFF_MAGIC:
            tiff = TiffPixels(path)
            return ImageReader(path, "tiff", tiff, _tiff_mpp(tiff))
        # Not PIL.Image.open: its limit against decompression bombs (179 megapixels) is a setting of the whole process,
        # and we have our own.
        if magic == PNG_MAGIC:
            return ImageReader(path, "png", DecodedPixels(PngImageFile(path)))
        if magic.startswith(JPEG_MAGIC):
            return ImageReader(path, "jpeg", DecodedPixels(JpegImageFile(path)))
    except SlideOpenError:
        raise
    except Exception as error:  # decoders raise SyntaxError, struct.error, TiffFileError, ... for a damaged header
        raise SlideOpenError(_one_line(error)) from error
    raise SlideOpenError("not a PNG, JPEG or TIFF")


class ImageReader:
    """A plain image; a `SlideReader`."""

    def __init__(self, path: Path, vendor: str, pixels: Pixels, mpp: tuple[MppXY | None, str] = (None, "none")) -> None:
        self._pixels = pixels
        self.info = SlideInfo(
            path=str(path),
            reader="image",
            vendor=vendor,
            levels=(Level(pixels.size, (1.0, 1.0)),),
            bounds=Box.of(pixels.size),
            mpp_xy=mpp[0],
            mpp_source=mpp[1],
            identity=hash_ends(path, pixels.size),
            cache_bytes=pixels.cache_bytes,
        )

    def read_level(self, level: int, box: Box) -> tuple[Image, tuple[float, float]]:
        """See `SlideReader.read_level`."""
        try:
            return self._pixels.read(box), (float(box.x0), float(box.y0))
        except Exception as error:  # as above: decoders have errors of their own, which must not end the run
            raise SlideReadError(
                f"{self.info.path}: {box.size} pixels from {(box.x0, box.y0)} of level {level} cannot be read: "
                f"{_one_line(error)}",
                reason=f"the image cannot be read: {_one_line(error)}",
            ) from error

    def close(self) -> None:
        """Release the file and its pixels."""
        self._pixels.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open slide cannot be sent to another process; send its path and open it there")


class DecodedPixels:
    """Image that is decoded whole when it is first read, and kept."""

    def __init__(self, picture: ImageFile) -> None:
        self.size = Size(*picture.size)
        if self.size.pixels > MOST_DECODED_PIXELS:
            picture.close()
            raise SlideOpenError(
                f"{self.size} pixels are more than the {MOST_DECODED_PIXELS:,} that can be decoded at once; "
                f"convert it to a tiled TIFF"
            )
        self.cache_bytes = 3 * self.size.pixels
        self._picture: ImageFile | None = picture
        self._image: Image | None = None
        self._lock = Lock()

    def read(self, box: Box) -> Image:
        """uint8 (box height, box width, 3) RGB. Raises whatever Pillow raises."""
        with self._lock:
            if self._image is None:
                self._image = self._decode()
        return self._image[box.slices_yx].copy()

    def close(self) -> None:
        """Release the file and the decoded image."""
        if self._picture is not None:
            self._picture.close()
        self._picture = self._image = None

    def _decode(self) -> Image:
        if self._picture is None:
            raise ValueError("the image is closed")
        if self._picture.mode.startswith("I;16"):
            grey = (np.asarray(self._picture) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        return on_white(self._picture)


def _tiff_mpp(tiff: TiffPixels) -> tuple[MppXY | None, str]:
    x, y = tiff.page.get_resolution()
    return mpp_from_tiff_tags(x, y, RESUNIT(tiff.page.resolutionunit).name)


def _one_line(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    # Texts such as the "0" of an IndexError do not help: a file that ends in the middle fails in many ways.
    return text if " " in text else f"damaged or cut short ({type(error).__name__})"
