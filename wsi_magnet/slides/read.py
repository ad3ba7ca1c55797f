"""Regions of a slide at any scale: read from one stored level and resampled once, at float positions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import Box, FloatBox, Size, ceil_div, round_up
from wsi_magnet.scales import Scale, best_level
from wsi_magnet.slides.types import Image, Level, SlideReader

FILTER = Pillow.Resampling.BILINEAR
"""Filter of the resampling: a triangle that reaches one pixel of the coarser grid to each side. At a ratio of 1.978 a
box averages now 1 and now 2 pixels, and shifts the image by up to 0.26 pixels; the triangle by 0.06, which is the
rounding of the colours. Of stripes too fine for the scale, 90 grey levels strong, the box leaves 20 and the triangle 3.
Hamming's window shifts where it enlarges, and the cubic and Lanczos filters overshoot at nuclei."""

DIRECT_RATIO = 4.5
"""Most level pixels per scale pixel, along an axis, for which a region is read in one piece. Pyramids of factor 4 stay
below it. Slides without a pyramid do not: 576 px at 8 mpp are 18,000 px of level 0, 1.3 GB."""

BLOCK_PX = 2048
"""Side of the blocks in which larger regions are read and shrunk: 48 MiB at OpenSlide's 12 bytes a pixel."""

LEAST_BLOCK_PX = 64
"""Smallest side of the quarters into which `read_whole` divides a block that cannot be read."""

BLOCKS_AT_ONCE = 4
"""Blocks that `read_whole` reads at the same time: of a slide without a pyramid it decodes all of level 0."""


RECTANGLE_BLOCK_PX = 1024
"""Side of the blocks of a rectangle that a user reads, in pixels of what is returned."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Level of a slide, and the number of its pixels that are averaged into one before the resampling."""

    reader: SlideReader
    index: int
    step_xy: tuple[int, int]
    """Level pixels averaged into one, counted from the level's corner: the result is a level that the slide could have
    had, independent of where a region of it starts."""

    @property
    def level(self) -> Level:
        return self.reader.info.levels[self.index]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Pixels of a source, and the position of the first one's outer corner in level pixels."""

    image: Image
    corner_xy: tuple[float, float]


def read_scale(reader: SlideReader, scale: Scale, box: Box) -> Image:
    """Read a rectangle of a slide at a scale's mpp.

    box: in pixels of that scale, counted from the canvas's corner; part of it lies on the canvas. Returns uint8 (box
    height, box width, 3) RGB. Beyond the canvas the slide is mirrored, because a white frame would look like glass to a
    network. The pixels depend on slide, scale and box alone. Raises SlideReadError, and ValueError for a box beside the
    canvas.
    """
    bounds = reader.info.bounds
    source = _source(reader, scale)
    wanted = _on_level(scale.level0(box).shift(bounds.x0, bounds.y0), source.level)
    canvas = _on_level(FloatBox(bounds.x0, bounds.y0, bounds.x1, bounds.y1), source.level)
    needed = _align(_with_margin(wanted, scale, source.level), source.step_xy)
    inside = _to_be_read(needed, _whole_pixels(canvas, source))
    if inside.empty:
        raise ValueError(f"{box} at {scale.mpp:g} mpp has no pixel on the canvas of {reader.info.path}")
    piece = _mirror(_read(source, inside), inside, needed, source.step_xy)
    return _resample(piece, source.step_xy, wanted, box.size)


def read_whole(
    reader: SlideReader, scale: Scale, *, block_px: int, unreadable_grey: int
) -> tuple[Image, npt.NDArray[np.bool_]]:
    """Read the whole canvas at a scale at which it fits in memory, in blocks of `block_px`.

    Returns uint8 (rows, columns, 3) RGB, and bool (rows, columns), True where the slide cannot be read and the pixels
    are `unreadable_grey`; a SlideReadError is not raised.
    """
    pixels = np.full((*scale.size.hw, 3), unreadable_grey, np.uint8)
    unreadable = np.zeros(scale.size.hw, np.bool_)

    def fill(block: Box) -> None:
        try:
            pixels[block.slices_yx] = read_scale(reader, scale, block)
        except SlideReadError:
            if (side := max(block.size.wh)) <= LEAST_BLOCK_PX:
                unreadable[block.slices_yx] = True
                return
            for quarter in block.squares(ceil_div(side, 2)):
                fill(quarter)

    with ThreadPoolExecutor(BLOCKS_AT_ONCE, thread_name_prefix="read") as threads:
        deque(threads.map(fill, scale.grid.squares(block_px)), maxlen=0)  # raises what a thread raised
    return pixels, unreadable


def read_rectangle(reader: SlideReader, rectangle: FloatBox, size: Size) -> Image:
    """Read a rectangle of level 0, in its pixels, as `size` pixels; white where a pixel's centre is outside level 0.

    Returns uint8 (size height, size width, 3) RGB, read in blocks of `RECTANGLE_BLOCK_PX`. Raises SlideReadError.
    """
    downsample_xy = (rectangle.x1 - rectangle.x0) / size.width, (rectangle.y1 - rectangle.y0) / size.height
    scale = Scale(0, 0.0, downsample_xy, size)
    source = _source(reader, scale)
    full = reader.info.size
    inside = Box(
        *(
            min(max(ceil((edge - start) / downsample - 0.5), 0), count)
            for edge in (0, 1)
            for edge, start, downsample, count in (
                (edge * full.width, rectangle.x0, downsample_xy[0], size.width),
                (edge * full.height, rectangle.y0, downsample_xy[1], size.height),
            )
        )
    )
    found = np.full((*size.hw, 3), 255, np.uint8)
    for block in inside.squares(RECTANGLE_BLOCK_PX):
        wanted = _on_level(scale.level0(block).shift(rectangle.x0, rectangle.y0), source.level)
        needed = _align(_with_margin(wanted, scale, source.level), source.step_xy)
        readable = _to_be_read(needed, Box.of(source.level.size))
        piece = _mirror(_read(source, readable), readable, needed, source.step_xy)
        found[block.slices_yx] = _resample(piece, source.step_xy, wanted, block.size)
    return found


def _source(reader: SlideReader, scale: Scale) -> _Source:
    levels = reader.info.levels
    index = best_level([level.downsample for level in levels], min(scale.downsample_xy))
    x, y = (wide / fine for wide, fine in zip(scale.downsample_xy, levels[index].downsample_xy, strict=True))
    return _Source(reader, index, (_step(x), _step(y)))


def _step(ratio: float) -> int:
    # At most half the ratio: two or more pixels are left for the triangle, which resamples at float positions.
    return 1 if ratio <= DIRECT_RATIO else min(int(ratio / 2), BLOCK_PX)


def _on_level(box: FloatBox, level: Level) -> FloatBox:
    return box.scale(1 / level.downsample_xy[0], 1 / level.downsample_xy[1])


def _with_margin(wanted: FloatBox, scale: Scale, level: Level) -> Box:
    """Input of the filter: its radius, and a pixel more because levels are read with an offset of up to one."""
    x, y = (
        ceil(max(coarse / fine, 1.0)) + 1 for coarse, fine in zip(scale.downsample_xy, level.downsample_xy, strict=True)
    )
    box = wanted.outer()
    return Box(box.x0 - x, box.y0 - y, box.x1 + x, box.y1 + y)


def _align(box: Box, step_xy: tuple[int, int]) -> Box:
    x, y = step_xy
    return Box(box.x0 // x * x, box.y0 // y * y, round_up(box.x1, x), round_up(box.y1, y))


def _whole_pixels(canvas: FloatBox, source: _Source) -> Box:
    """Pixels, or steps of them, that lie wholly on the canvas; if there are none, those that touch it.

    A slide may fade to white at its edge. Less than a pixel of the scale is cut off, and is mirrored.
    """
    x0, x1 = _whole(canvas.x0, canvas.x1, source.step_xy[0])
    y0, y1 = _whole(canvas.y0, canvas.y1, source.step_xy[1])
    return Box(x0, y0, x1, y1).intersect(Box.of(source.level.size))


def _whole(start: float, end: float, step: int) -> tuple[int, int]:
    nothing = 1e-6  # 500.0000001 is 500
    first = ceil(start / step - nothing)
    # Readers start a region at the canvas's own pixels, up to one before the level's, so its length counts.
    past = first + floor(end - start + nothing) if step == 1 else floor(end / step + nothing)
    if past <= first:
        first, past = floor(start / step), ceil(end / step)
    return first * step, past * step


def _to_be_read(needed: Box, canvas: Box) -> Box:
    """Needed part of the canvas, for itself and for its mirror image beyond the canvas."""
    if needed.intersect(canvas).empty:
        return needed.intersect(canvas)
    mirrored = Box(
        min(needed.x0, 2 * canvas.x1 - needed.x1),
        min(needed.y0, 2 * canvas.y1 - needed.y1),
        max(needed.x1, 2 * canvas.x0 - needed.x0),
        max(needed.y1, 2 * canvas.y0 - needed.y0),
    )
    return mirrored.intersect(canvas)


def _read(source: _Source, inside: Box) -> _Piece:
    if source.step_xy == (1, 1):
        return _Piece(*source.reader.read_level(source.index, inside))
    return _read_shrunk(source, inside)


def _read_shrunk(source: _Source, inside: Box) -> _Piece:
    """Averages over whole steps, read block by block.

    Where a level's pixels begin between level-0 pixels, each block is offset by up to half a level pixel, and the piece
    takes the mean offset: within an eighth of a scale pixel. On level 0, from which slides without a pyramid are read,
    there is no offset.
    """
    step_x, step_y = source.step_xy
    shrunk = np.empty((ceil_div(inside.size.height, step_y), ceil_div(inside.size.width, step_x), 3), np.uint8)
    offsets = []
    for block in _blocks(inside, source.step_xy):
        image, (x, y) = source.reader.read_level(source.index, block)
        part = np.asarray(Pillow.fromarray(image).reduce(source.step_xy))
        row, column = (block.y0 - inside.y0) // step_y, (block.x0 - inside.x0) // step_x
        shrunk[row : row + part.shape[0], column : column + part.shape[1]] = part
        offsets.append((x - block.x0, y - block.y0))
    offset_x, offset_y = np.mean(offsets, axis=0)
    return _Piece(shrunk, (inside.x0 + float(offset_x), inside.y0 + float(offset_y)))


def _blocks(inside: Box, step_xy: tuple[int, int]) -> Iterator[Box]:
    width, height = (BLOCK_PX // step * step for step in step_xy)
    for y in range(inside.y0, inside.y1, height):
        for x in range(inside.x0, inside.x1, width):
            yield Box(x, y, x + width, y + height).intersect(inside)


def _mirror(piece: _Piece, inside: Box, needed: Box, step_xy: tuple[int, int]) -> _Piece:
    """The piece, mirrored beyond the canvas as far as needed."""
    step_x, step_y = step_xy
    top, bottom = _missing(inside.y0 - needed.y0, needed.y1 - inside.y1, step_y)
    left, right = _missing(inside.x0 - needed.x0, needed.x1 - inside.x1, step_x)
    if not (top or left or bottom or right):
        return piece
    image = np.pad(piece.image, ((top, bottom), (left, right), (0, 0)), mode="symmetric")
    return _Piece(image, (piece.corner_xy[0] - left * step_x, piece.corner_xy[1] - top * step_y))


def _missing(before_px: int, after_px: int, step: int) -> tuple[int, int]:
    """Whole steps to add before and after; 0 where more was read than is needed."""
    return max(before_px // step, 0), max(after_px // step, 0)


def _resample(piece: _Piece, step_xy: tuple[int, int], wanted: FloatBox, size: Size) -> Image:
    in_piece = wanted.shift(-piece.corner_xy[0], -piece.corner_xy[1]).scale(1 / step_xy[0], 1 / step_xy[1])
    corners = in_piece.x0, in_piece.y0, in_piece.x1, in_piece.y1
    if all(float(corner).is_integer() for corner in corners) and in_piece.outer().size == size:
        rows, cols = in_piece.outer().slices_yx  # the filter would copy each pixel
        return np.ascontiguousarray(piece.image[rows, cols])
    return np.array(Pillow.fromarray(piece.image).resize(size.wh, FILTER, box=corners))
