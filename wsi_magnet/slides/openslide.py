"""Reader of whole-slide formats through OpenSlide; only this module imports that library.

Threads share one handle, because OpenSlide's cache of decoded tiles belongs to a handle and neighbouring regions share
tiles. An error latches: every later read on that handle fails too. So a region that fails is read once more on a fresh
handle of its own, and the shared one is replaced: other threads' regions are not affected, and the result of a read
never depends on earlier reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from math import floor
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from wsi_magnet.errors import SlideOpenError, SlideReadError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.slides.colour import on_white
from wsi_magnet.slides.identity import hash_ends
from wsi_magnet.slides.levels import settle_downsamples
from wsi_magnet.slides.mpp import mpp_from_properties
from wsi_magnet.slides.types import Image, Level, SlideInfo

if TYPE_CHECKING:
    from openslide import OpenSlide, OpenSlideCache

CACHE_BYTES = 64 << 20
"""Memory of decoded tiles per process, for all slides together. Patches are read in the order of the plan's tiles, so
shared slide tiles are needed again within a few patches of 5 to 20 MB each; 256 MiB were no faster, and as they filled
up memory grew with the slide."""

MOST_TILE_PIXELS = 1 << 30
"""Most pixels of a slide's tile; a slide with larger ones is damaged. OpenSlide decodes a tile whole, here to 4 GB or
more, and ends the process if it cannot allocate them."""

_BOUNDS = tuple(f"openslide.bounds-{name}" for name in ("x", "y", "width", "height"))


def open_openslide(path: Path) -> OpenSlideReader:
    """Open a slide of any format that OpenSlide reads. Raises SlideOpenError with the reason."""
    try:
        return OpenSlideReader(path, _open_handle(path))
    except SlideOpenError:
        raise
    except OSError as error:
        raise SlideOpenError(error.strerror or str(error)) from error
    except Exception as error:
        # Properties of a damaged file raise KeyError (a name that is no UTF-8), its sizes ValueError, and so on.
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise SlideOpenError(
            f"its metadata are damaged ({what}); copy the file again, or export it again from the scanner"
        ) from error


def openslide_versions() -> tuple[str, str]:
    """Versions of the library and of its Python package. Raises SlideOpenError where the library cannot be loaded."""
    library = _library()
    return library.__library_version__, library.__version__


def openslide_decoders() -> tuple[str, ...]:
    """Names of the library's decoders, each tested on a small image built into the library.

    Empty where the library has no such images (before 4.0.1) or was loaded without OPENSLIDE_DEBUG=synthetic. Raises
    SlideOpenError with the library's reason if a decoder fails.
    """
    library = _library()
    try:
        with library.OpenSlide("") as pictures:
            names = [name for key, name in pictures.properties.items() if key.startswith("synthetic.image[")]
            pictures.read_region((0, 0), 0, pictures.dimensions)
            return tuple(sorted(names))
    except library.OpenSlideUnsupportedFormatError:
        return ()
    except library.OpenSlideError as error:
        raise SlideOpenError(str(error)) from error


class OpenSlideReader:
    """Slide that is open in OpenSlide; a `SlideReader`."""

    def __init__(self, path: Path, handle: OpenSlide) -> None:
        self.info = _describe(path, handle)
        self._path = path
        self._stated_downsamples = handle.level_downsamples
        self._handle: OpenSlide | None = handle
        self._lock = Lock()
        self._settle_levels()

    def read_level(self, level: int, box: Box) -> tuple[Image, tuple[float, float]]:
        """See `SlideReader.read_level`."""
        downsample, bounds = self._stated_downsamples[level], self.info.bounds
        x, y = _location(box.x0, downsample, bounds.x0), _location(box.y0, downsample, bounds.y0)
        return self._read(level, (x, y), box.size), (x / downsample, y / downsample)

    def close(self) -> None:
        """Release the file as soon as no thread reads it."""
        self._handle = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open slide cannot be sent to another process; send its path and open it there")

    def _settle_levels(self) -> None:
        levels = self.info.levels
        downsamples = settle_downsamples([level.size for level in levels], self._stated_downsamples, self.read_level)
        settled = (Level(level.size, xy) for level, xy in zip(levels, downsamples, strict=True))
        self.info = replace(self.info, levels=tuple(settled))

    def _read(self, level: int, location_xy: tuple[int, int], size: Size) -> Image:
        error_type = _library().OpenSlideError
        handle = self._handle
        if handle is None:
            raise SlideReadError(f"{self.info.path} is closed")
        with suppress(error_type):
            return on_white(handle.read_region(location_xy, level, size.wh))
        try:
            self._replace(handle)
            return on_white(_open_handle(self._path).read_region(location_xy, level, size.wh))
        except (error_type, SlideOpenError) as error:
            raise SlideReadError(
                f"{self.info.path}: level {level}, {size} pixels from {location_xy} of level 0 cannot be read: {error}",
                reason=f"level {level} of the slide cannot be read: {error}",
            ) from error

    def _replace(self, latched: OpenSlide) -> None:
        # The old handle is not closed but dropped: other threads may still use it.
        with self._lock:
            if self._handle is latched:
                self._handle = _open_handle(self._path)


def _library() -> ModuleType:
    """Import OpenSlide when it is first needed: plain images are read without it."""
    try:
        import openslide
    except (ImportError, OSError) as error:  # OSError: the C library is missing or broken
        raise SlideOpenError(f"OpenSlide is not installed ({str(error).splitlines()[0]})") from error
    return openslide


def _open_handle(path: Path) -> OpenSlide:
    library = _library()
    try:
        handle: OpenSlide = library.OpenSlide(path)
        handle.set_cache(_decoded_tiles())
    except library.OpenSlideError as error:
        raise SlideOpenError(str(error)) from error
    return handle


@cache
def _decoded_tiles() -> OpenSlideCache:
    """Cache shared by all handles, so that memory does not grow with the number of open slides."""
    cache: OpenSlideCache = _library().OpenSlideCache(CACHE_BYTES)
    return cache


def _location(level_px: int, downsample: float, corner: int) -> int:
    """Level-0 position of a read whose region starts at a pixel of a level, or less than one pixel before it.

    corner: start of the slide's content on level 0. Counted in whole level pixels from there, because for most formats
    OpenSlide interpolates between pixels where a position falls inside one, and for Leica's it drops the fraction.
    Never after the pixel: the region would end beyond the level's last one, which OpenSlide fades out.
    """
    nothing = 1e-6  # 1500 * 4.000000001 is 6000
    steps = floor(level_px - corner / downsample + nothing)
    return floor(corner + steps * downsample + nothing)


def _describe(path: Path, handle: OpenSlide) -> SlideInfo:
    properties = dict(handle.properties)
    sizes = [Size(*wh) for wh in handle.level_dimensions]
    _check_tiles(properties, len(sizes))
    mpp_xy, mpp_source = mpp_from_properties(properties)
    return SlideInfo(
        path=str(path),
        reader="openslide",
        vendor=properties["openslide.vendor"],
        levels=tuple(Level(size, (d, d)) for size, d in zip(sizes, handle.level_downsamples, strict=True)),
        bounds=bounds_of(properties, sizes[0]),
        mpp_xy=mpp_xy,
        mpp_source=mpp_source,
        identity=properties.get("openslide.quickhash-1") or hash_ends(path, sizes[0]),
        properties=properties,
        pictures=tuple(sorted(handle.associated_images)),
        cache_bytes=CACHE_BYTES,
    )


def _check_tiles(properties: Mapping[str, str], levels: int) -> None:
    """Raise SlideOpenError for tiles that cannot be decoded, where OpenSlide says how large they are."""
    for level in range(levels):
        width, height = (
            int(properties.get(f"openslide.level[{level}].tile-{side}", 0)) for side in ("width", "height")
        )
        if width * height > MOST_TILE_PIXELS:
            raise SlideOpenError(
                f"its metadata are damaged (tiles of {width} x {height} pixels in level {level}); copy the file again, "
                "or export it again from the scanner"
            )


def bounds_of(properties: Mapping[str, str], size: Size) -> Box:
    """Part of level 0 inside OpenSlide's bounds, cut at its edges; all of level 0 without usable bounds."""
    try:
        x, y, width, height = (int(properties[key]) for key in _BOUNDS)
    except (KeyError, ValueError):
        return Box.of(size)
    box = Box(x, y, x + width, y + height).intersect(Box.of(size))
    return Box.of(size) if box.empty else box
