"""Slides made for tests: pixels that say where they are, bounds, gigapixels of H&E from a few tiles, broken files."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import openslide
import tifffile
from PIL import Image as Pillow
from scipy import ndimage

from wsi_magnet.geometry import Box, Size, ceil_div
from wsi_magnet.scales import Scale
from wsi_magnet.slides.types import Image

Floats = npt.NDArray[np.floating[Any]]

# ---- pixels that say where they are -------------------------------------------------------------------------------

PERIODS = (64, 512, 4096)
"""Of the triangle waves in R, G and B, in level-0 pixels: whatever the scale, one of them is steep enough to tell a
fraction of its pixel and long enough to survive it."""


def wave(position: Floats, period: float) -> Floats:
    """A triangle wave between 0 and 255, rising from 0 at position 0."""
    phase = position / period % 1.0
    return np.asarray(510.0 * np.minimum(phase, 1.0 - phase))


def coded(size: Size, axis: str = "x") -> Image:
    """Pixels whose colours are the waves at their centres' position along an axis."""
    length = size.width if axis == "x" else size.height
    line = np.stack([wave(np.arange(length) + 0.5, period) for period in PERIODS], axis=-1).round().astype(np.uint8)
    rows = line[None] if axis == "x" else line[:, None]
    return np.ascontiguousarray(np.broadcast_to(rows, (*size.hw, 3)))


def shifts(image: Image, box: Box, scale: Scale, axis: str, *, corner: float = 0.0) -> Floats:
    """How far the pixels of `box` at a scale lie beside their place along an axis, in pixels of the scale.

    corner: position of the canvas's corner in the coded picture, along the axis. Pixels at the turns of their wave say
    nothing and are left out.
    """
    x = axis == "x"
    downsample = scale.downsample_xy[0 if x else 1]
    period = next(p for p in PERIODS if p >= 12 * downsample)
    first, past = (box.x0, box.x1) if x else (box.y0, box.y1)
    expected = corner + (np.arange(first, past) + 0.5) * downsample
    values = image[..., PERIODS.index(period)].astype(np.float64)
    lines = values if x else values.T
    to_turn = np.abs((expected / (period / 2)) % 1.0 - 0.5)
    told = to_turn < 0.5 - 2 * downsample / period
    rising = np.where(expected / period % 1.0 < 0.5, 1.0, -1.0)
    beside = (lines - wave(expected, period)) * rising / (510.0 / period) / downsample
    return np.asarray(beside[:, told])


# ---- small pyramids ----------------------------------------------------------------------------------------------


def write_pyramid(
    path: Path,
    image: Image,
    *,
    mpp: float | None = 0.25,
    factors: Sequence[int] = (),
    stretch: bool = False,
    **options: Any,
) -> Path:
    """A tiled, lossless TIFF that OpenSlide opens as generic-tiff, with levels of `factors`.

    Levels lose their last row and column where the size is odd. stretch: they are resized to that size; otherwise they
    are averages of whole squares. Real slides come both ways.
    """
    shared: dict[str, Any] = {"photometric": "rgb", "tile": (128, 128), "compression": "deflate"}
    if mpp is not None:
        shared |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, **{**shared, **options})
        for factor in factors:
            tiff.write(_level(image, factor, stretch), subfiletype=1, **{**shared, **options})
    return path


def cut_out(slide: Path, path: Path, corner_xy: tuple[int, int], size: Size) -> Path:
    """A part of a real slide's level 0, as a slide of one level with the same mpp."""
    with openslide.OpenSlide(slide) as whole:
        part = np.asarray(whole.read_region(corner_xy, 0, size.wh).convert("RGB"))
        return write_pyramid(path, part, mpp=float(whole.properties[openslide.PROPERTY_NAME_MPP_X]))


def _level(image: Image, factor: int, stretch: bool) -> Image:
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if stretch:
        return np.asarray(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BILINEAR))
    squares = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.asarray(squares.mean(axis=(1, 3)).round().astype(np.uint8))


def write_scn(path: Path, image: Image, *, whole: Size, corner_xy: tuple[int, int], mpp: float = 0.25) -> Path:
    """A Leica slide with bounds: `image` lies at `corner_xy` in an otherwise empty level 0 of the extent `whole`."""
    nm = round(mpp * 1000)
    height, width = image.shape[:2]
    levels = [image, _level(image, 4, stretch=False)]
    dimensions = "".join(
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{i}" ifd="{i}"/>'
        for i, level in enumerate(levels)
    )
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection sizeX="{whole.width * nm}" sizeY="{whole.height * nm}"><image>'
        f"<pixels>{dimensions}</pixels>"
        f'<view sizeX="{width * nm}" sizeY="{height * nm}"'
        f' offsetX="{corner_xy[0] * nm}" offsetY="{corner_xy[1] * nm}"/>'
        "<scanSettings><objectiveSettings><objective>40</objective></objectiveSettings><illuminationSettings>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>"
        "</image></collection></scn>"
    )
    resolution = (1e4 / mpp, 1e4 / mpp)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for i, level in enumerate(levels):
            tiff.write(
                level,
                photometric="rgb",
                tile=(128, 128),
                compression="deflate",
                metadata=None,
                description=description if i == 0 else None,
                resolution=resolution,
                resolutionunit="CENTIMETER",
            )
    return path


# ---- H&E without a patient ---------------------------------------------------------------------------------------

GLASS_RGB, STROMA_RGB, EPITHELIUM_RGB, NUCLEUS_RGB = (243, 242, 243), (224, 168, 196), (196, 128, 178), (88, 60, 130)


def stained(size: Size, seed: int = 0) -> Image:
    """Tissue everywhere: pink stroma, glands with an epithelium and an empty lumen, dark nuclei, a little noise."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(size.hw), 14, mode="wrap")
    glands = noise / noise.std()
    picture = np.empty((*size.hw, 3))
    picture[:] = STROMA_RGB
    picture[glands > 0.6] = EPITHELIUM_RGB
    picture[glands > 1.4] = GLASS_RGB
    nuclei = ndimage.maximum_filter(rng.random(size.hw) > 0.997, 5) & (glands < 1.3)
    picture[nuclei] = NUCLEUS_RGB
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def glass(size: Size, seed: int = 0) -> Image:
    """Bare glass with a scanner's noise."""
    rng = np.random.default_rng(seed)
    return np.clip(np.asarray(GLASS_RGB) + rng.normal(0, 2, (*size.hw, 3)), 0, 255).astype(np.uint8)


# ---- gigapixels from a few tiles ---------------------------------------------------------------------------------

TILE_PX = 512
LEVELS = 7


@dataclass(frozen=True, slots=True)
class _TiffLevel:
    size: Size
    tiles: npt.NDArray[np.int64]
    """(rows, columns): which of the encoded tiles lies there."""


def write_gigapixel_slide(
    path: Path,
    *,
    gigapixels: float,
    tissue_share: float = 0.3,
    mpp: float = 0.25,
    levels: int = LEVELS,
    broken: Sequence[tuple[int, int, int]] = (),
) -> Path:
    """An H&E-like slide with a pyramid of factor 2, in seconds and a few MB whatever its size.

    gigapixels: of level 0, 4:3. tissue_share: part of it under one round section in the middle. broken: (level, row,
    column) of tiles that are no JPEG. Equal tiles are encoded and stored once, and every place points to them.
    """
    height = sqrt(gigapixels * 1e9 * 3 / 4)
    return write_stained_slide(
        path,
        Size(round(height * 4 / 3), round(height)),
        tissue_share=tissue_share,
        mpp=mpp,
        levels=levels,
        broken=broken,
    )


def write_stained_slide(
    path: Path,
    size: Size,
    *,
    tissue_share: float = 0.3,
    mpp: float = 0.25,
    levels: int = LEVELS,
    broken: Sequence[tuple[int, int, int]] = (),
) -> Path:
    """The same for an exact size."""
    kinds = _section(_grid(size), tissue_share)
    box = Size(TILE_PX, TILE_PX)
    pictures = [glass(box), *(stained(box, seed) for seed in range(3))]
    pyramid = [_TiffLevel(size, kinds)]
    encoded = [_jpeg(picture) for picture in pictures]
    while len(pyramid) < levels:
        coarser, pictures = _halve(pyramid[-1], pictures, first=len(encoded))
        encoded += [_jpeg(picture) for picture in pictures]
        pyramid.append(coarser)
    for level, row, column in broken:
        pyramid[level].tiles[row, column] = len(encoded)
    _write_tiff(path, pyramid, [*encoded, b"no JPEG at all"], mpp)
    return path


def _grid(size: Size) -> tuple[int, int]:
    return ceil_div(size.height, TILE_PX), ceil_div(size.width, TILE_PX)


def _section(grid: tuple[int, int], share: float) -> npt.NDArray[np.int64]:
    """0 = glass, 1..3 = kinds of tissue, of each tile: an ellipse of that share of the slide (a rectangle near 1)."""
    rows, columns = np.indices(grid)
    y, x = (rows + 0.5) / grid[0] * 2 - 1, (columns + 0.5) / grid[1] * 2 - 1
    power = 2.0 if share < 0.7 else 16.0
    distance = np.abs(x) ** power + np.abs(y) ** power
    inside = distance <= np.quantile(distance, share) if share > 0 else np.zeros(grid, bool)
    return np.where(inside, 1 + (rows * 7 + columns * 3) % 3, 0).astype(np.int64)


def _halve(finer: _TiffLevel, pictures: Sequence[Image], *, first: int) -> tuple[_TiffLevel, list[Image]]:
    """The next level, and the pictures of its different tiles; they are numbered from `first`.

    pictures: of the finer level's tiles, whose numbers end at `first`.
    """
    size = Size(ceil_div(finer.size.width, 2), ceil_div(finer.size.height, 2))
    rows, columns = _grid(size)
    padded = np.pad(
        finer.tiles, ((0, rows * 2 - finer.tiles.shape[0]), (0, columns * 2 - finer.tiles.shape[1])), "edge"
    )
    fours = padded.reshape(rows, 2, columns, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    different, inverse = np.unique(fours, axis=0, return_inverse=True)
    base = first - len(pictures)
    halved = [_join([pictures[number - base] for number in four]) for four in different]
    return _TiffLevel(size, first + inverse.reshape(rows, columns).astype(np.int64)), halved


def _join(four: Sequence[Image]) -> Image:
    square = np.concatenate([np.concatenate(four[:2], axis=1), np.concatenate(four[2:], axis=1)])
    return np.asarray(Pillow.fromarray(square).reduce(2))


def _jpeg(picture: Image) -> bytes:
    return bytes(imagecodecs.jpeg_encode(picture, level=80, colorspace="rgb", outcolorspace="rgb", subsampling="444"))


def _write_tiff(path: Path, levels: Sequence[_TiffLevel], tiles: Sequence[bytes], mpp: float) -> None:
    """A BigTIFF of JPEG tiles: tiles first, then a directory a level, whose entries may point to the same tile."""
    lengths = np.array([len(tile) for tile in tiles], np.int64)
    offsets = 16 + np.concatenate([[0], lengths.cumsum()[:-1]])
    body = b"".join(tiles)
    directories = b""
    start = 16 + len(body)
    for index, level in enumerate(levels):
        directory = _directory(level, index, offsets, lengths, mpp, start + len(directories), index == len(levels) - 1)
        directories += directory
    path.write_bytes(struct.pack("<2sHHHQ", b"II", 43, 8, 0, start) + body + directories)


_SHORT, _LONG, _RATIONAL, _LONG8 = 3, 4, 5, 16
_FORMATS: Mapping[int, str] = {_SHORT: "H", _LONG: "I", _RATIONAL: "2I", _LONG8: "Q"}


def _directory(
    level: _TiffLevel,
    index: int,
    offsets: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    mpp: float,
    start: int,
    last: bool,
) -> bytes:
    """One level's directory, lying at `start`, followed by its longer values and then by the next directory."""
    places = level.tiles.ravel()
    per_cm = (round(1e7 / (mpp * 2**index)), 1000)
    entries: list[tuple[int, int, Sequence[int]]] = [
        (254, _LONG, [int(index > 0)]),
        (256, _LONG, [level.size.width]),
        (257, _LONG, [level.size.height]),
        (258, _SHORT, [8, 8, 8]),
        (259, _SHORT, [7]),  # JPEG
        (262, _SHORT, [2]),  # RGB
        (277, _SHORT, [3]),
        (282, _RATIONAL, per_cm),
        (283, _RATIONAL, per_cm),
        (296, _SHORT, [3]),  # centimetres
        (322, _LONG, [TILE_PX]),
        (323, _LONG, [TILE_PX]),
        (324, _LONG8, offsets[places].tolist()),
        (325, _LONG8, lengths[places].tolist()),
    ]
    table, values = b"", b""
    values_at = start + 8 + 20 * len(entries) + 8
    for tag, kind, numbers in entries:
        data = b"".join(_packed(kind, numbers))
        count = len(numbers) // (2 if kind == _RATIONAL else 1)
        place = data.ljust(8, b"\0") if len(data) <= 8 else struct.pack("<Q", values_at + len(values))
        table += struct.pack("<HHQ", tag, kind, count) + place
        values += data if len(data) > 8 else b""
    next_directory = 0 if last else values_at + len(values)
    return struct.pack("<Q", len(entries)) + table + struct.pack("<Q", next_directory) + values


def _packed(kind: int, numbers: Sequence[int]) -> Iterator[bytes]:
    width = 2 if kind == _RATIONAL else 1
    for i in range(0, len(numbers), width):
        yield struct.pack("<" + _FORMATS[kind], *numbers[i : i + width])
