"""Label images: their position on the slide, and their labels at the pixel centres of any scale, never interpolated.

A label image covers all of level 0 or only the canvas (the slide's bounds); its size decides which. Its pixels are as
large as the slide's, or as its own mpp states (in OME-Zarr, or in a TIFF's resolution).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.annotations.coding import Coding
from wsi_magnet.annotations.label_pixels import LabelPixels, decoding
from wsi_magnet.annotations.labels import Codes, SetTable
from wsi_magnet.annotations.types import Sets
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.scales import Scale
from wsi_magnet.slides.types import SlideInfo

BLOCK_PX = 2048
"""Side of the blocks of a label image that are read at once."""

Indices = npt.NDArray[np.int64]
"""int64 (n,): columns or rows of the label image; -1 outside of it."""


@dataclass(frozen=True, slots=True)
class LabelGrid:
    """Position of a label image on the canvas, in level-0 pixels."""

    corner_xy: tuple[float, float]
    """Its upper left corner, relative to the canvas's."""
    step_xy: tuple[float, float]
    """Level-0 pixels per pixel of the label image."""

    def indices(self, axis: int, centres: npt.NDArray[np.floating[Any]], length: int, canvas_length: int) -> Indices:
        """Column (axis 0) or row (axis 1) of each position on the canvas, of a label image with `length` of them."""
        indices = np.floor((centres - self.corner_xy[axis]) / self.step_xy[axis]).astype(np.int64)
        there = (indices >= 0) & (indices < length) & (centres >= 0) & (centres < canvas_length)
        return np.where(there, indices, -1)


def locate(size: Size, mpp_xy: tuple[float, float] | None, info: SlideInfo) -> LabelGrid:
    """Find the position of a label image of that size and stated mpp on a slide.

    Raises AnnotationError where it fits neither level 0 nor the canvas.
    """
    corners = ((info.canvas, (0.0, 0.0)), (info.size, (-float(info.bounds.x0), -float(info.bounds.y0))))
    for whole, corner_xy in corners:
        if size == whole:
            return LabelGrid(corner_xy, (1.0, 1.0))
    if mpp_xy is not None and info.mpp_xy is not None:
        x, y = (own / slides for own, slides in zip(mpp_xy, info.mpp_xy, strict=True))
        for whole, corner_xy in corners:
            # Within one pixel: writers round the size up or down.
            if abs(size.width - whole.width / x) <= 1 and abs(size.height - whole.height / y) <= 1:
                return LabelGrid(corner_xy, (x, y))
    raise AnnotationError(f"{_misfit(size, mpp_xy, info)}; it must have the slide's size, or state an mpp that fits it")


def _misfit(size: Size, mpp_xy: tuple[float, float] | None, info: SlideInfo) -> str:
    own = f"{size}" if mpp_xy is None else f"{size} at {mpp_xy[0]:.4g} mpp"
    slide = f"{info.size}" if info.mpp_xy is None or mpp_xy is None else f"{info.size} at {info.mpp_xy[0]:.4g}"
    return f"is {own}, the slide {slide}" + ("" if info.canvas == info.size else f" (its bounds {info.canvas})")


class LabelImage:
    """An open label image of a slide; an `Annotation`."""

    def __init__(self, path: Path, pixels: LabelPixels, info: SlideInfo, coding: Coding) -> None:
        """Takes ownership of `pixels`. Raises AnnotationError where they do not fit the slide."""
        try:
            self._grid = locate(pixels.size, pixels.mpp_xy, info)
        except AnnotationError as error:
            pixels.close()
            raise AnnotationError(f"{path} {error}") from error
        self.n_classes = len(coding.classes)
        self.path = path
        self.size = pixels.size
        self._pixels = pixels
        self._canvas = info.canvas
        self._ignored = coding.ignored
        self._table = SetTable(coding)

    def read(self, scale: Scale, box: Box) -> Sets:
        """See `Annotation.read`."""
        columns = self._indices(0, scale, box.x0, box.x1)
        rows = self._indices(1, scale, box.y0, box.y1)
        sets = np.full(box.size.hw, self._ignored, np.uint32)
        for top in _pieces(rows):
            for left in _pieces(columns):
                sets[np.ix_(top, left)] = self._sample(rows[top], columns[left])
        return sets

    def check(self) -> None:
        """Read all pixels. Raises AnnotationError for the first unknown label."""
        for block in Box.of(self._pixels.size).squares(BLOCK_PX):
            self._sets(self.stored_codes(block))

    def stored_codes(self, box: Box) -> Codes:
        """Codes (box height, box width), see `labels`, of a box of the image's own pixels. Raises AnnotationError."""
        with decoding(self.path):
            return self._pixels.codes(self._pixels.read(box))

    def values(self) -> set[int]:
        """All codes of the image. Raises AnnotationError."""
        found: set[int] = set()
        for block in Box.of(self.size).squares(BLOCK_PX):
            found.update(np.unique(self.stored_codes(block)).tolist())
        return found

    def on_canvas(self, outline: BaseGeometry) -> BaseGeometry:
        """An outline in the image's own pixels, in level-0 pixels from the canvas's corner."""
        step, corner = np.array(self._grid.step_xy), np.array(self._grid.corner_xy)
        return shapely.transform(outline, lambda points: points * step + corner)

    def close(self) -> None:
        """Release the file."""
        self._pixels.close()

    def _indices(self, axis: int, scale: Scale, first: int, past: int) -> Indices:
        centres = (np.arange(first, past) + 0.5) * scale.downsample_xy[axis]
        return self._grid.indices(axis, centres, self._pixels.size.wh[axis], self._canvas.wh[axis])

    def _sample(self, rows: Indices, columns: Indices) -> Sets:
        block = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        with decoding(self.path):
            stored = self._pixels.read(block)
            codes = self._pixels.codes(stored[np.ix_(rows - block.y0, columns - block.x0)])
        return self._sets(codes)

    def _sets(self, codes: npt.NDArray[np.int64]) -> Sets:
        try:
            return self._table.sets(codes)
        except AnnotationError as error:
            raise AnnotationError(f"{self.path}: {error}") from error


def _pieces(indices: Indices) -> Iterator[Indices]:
    """Positions within `indices` that lie on the image, in runs of at most one block of its pixels."""
    there = np.flatnonzero(indices >= 0)
    if len(there):
        blocks = indices[there] // BLOCK_PX
        yield from np.split(there, np.flatnonzero(np.diff(blocks)) + 1)
