"""An open slide for users: any rectangle at any resolution, a thumbnail, and closed at the end of a `with` block."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, NoReturn

from PIL import Image as Pillow

from wsi_magnet.geometry import Box, FloatBox, Size
from wsi_magnet.scales import Scale, pixels_at, to_rectangle
from wsi_magnet.schema import Bounds
from wsi_magnet.slides.read import read_rectangle, read_whole
from wsi_magnet.slides.types import Image, SlideInfo, SlideReader
from wsi_magnet.text import counted
from wsi_magnet.values import check

MOST_SHOWN_PIXELS = 1 << 26
"""Most pixels that are decoded to show a slide in a notebook: a large slide without a pyramid would take minutes."""


BLOCK_PX, UNREADABLE_GREY = 256, 128
"""Blocks in which a thumbnail is read, in its pixels, and the grey of what cannot be decoded."""


class Slide:
    """An open slide, of any reader; a `SlideReader` itself, and a context manager. Several threads may read at once.

    info: frozen facts: size, levels, bounds, mpp, vendor, metadata.
    """

    def __init__(self, reader: SlideReader) -> None:
        self._reader = reader
        self.info: SlideInfo = reader.info

    def read(self, box: Box | Sequence[float], mpp: float | None = None) -> Image:
        """Read a rectangle of the slide at any resolution.

        box: (x, y, width, height) in level-0 pixels, from the corner of level 0, as OpenSlide counts them, or a `Box`
        of whole ones. It need not be whole, nor inside the slide: what lies outside is white. mpp: microns per pixel of
        what is returned, by default level 0's own pixels.
        Returns uint8 (rows, columns, 3), RGB, with round(width * slide mpp / mpp) columns, at least 1: the same pixels
        as those of `open_result(...).region(box, mpp)`. Read from the coarsest level that is fine enough.
        Raises ConfigError for a box or an mpp that cannot be, MissingMppError for an mpp where the slide has none, and
        SlideReadError for what cannot be decoded.
        """
        rectangle = to_rectangle(box)
        mpp_xy = (1.0, 1.0) if mpp is None else self.info.require_mpp()
        x, y, width, height = rectangle
        where = FloatBox(x, y, x + width, y + height)
        return read_rectangle(self._reader, where, pixels_at(rectangle, mpp_xy, mpp))

    def thumbnail(self, longest_px: int = 512) -> Pillow.Image:
        """The part of the slide that was scanned (`info.bounds`), RGB, its longer side at most `longest_px` pixels.

        It shows what `open_result(...).thumbnail()` shows the mask of. A slide without a pyramid is decoded whole; what
        cannot be decoded is grey. Raises ConfigError for a size below 1.
        """
        longest_px = check(Annotated[int, Bounds(1)], longest_px, "longest_px")
        bounds = self.info.bounds
        shrink = min(1.0, longest_px / max(bounds.size.wh))
        size = Size(max(1, round(bounds.size.width * shrink)), max(1, round(bounds.size.height * shrink)))
        scale = Scale(0, 0.0, (bounds.size.width / size.width, bounds.size.height / size.height), size)
        pixels, _ = read_whole(self._reader, scale, block_px=BLOCK_PX, unreadable_grey=UNREADABLE_GREY)
        return Pillow.fromarray(pixels)

    def read_level(self, level: int, box: Box) -> tuple[Image, tuple[float, float]]:
        """See `SlideReader.read_level`."""
        return self._reader.read_level(level, box)

    def close(self) -> None:
        """Release the file."""
        self._reader.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open slide cannot be sent to another process; send its path and open it there")

    def __repr__(self) -> str:
        info = self.info
        mpp = "without mpp" if info.mpp_xy is None else f"at {' x '.join(f'{m:g}' for m in _once(info.mpp_xy))} µm/px"
        levels = counted(len(info.levels), "level")
        return f"<Slide {Path(info.path).name}: {info.size} pixels {mpp}, {levels}, {info.vendor}>"

    def _repr_png_(self) -> bytes | None:
        if self.info.levels[-1].size.pixels > MOST_SHOWN_PIXELS:
            return None
        buffer = io.BytesIO()
        self.thumbnail().save(buffer, "PNG")
        return buffer.getvalue()


def _once(mpp_xy: tuple[float, float]) -> tuple[float, ...]:
    return mpp_xy[:1] if mpp_xy[0] == mpp_xy[1] else mpp_xy
