"""The pictures of a page on one grid: slide, labels, uncertainty, and slide with labels for print."""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.report.colours import vivid
from wsi_magnet.report.overlay import blend, open_own_slide, scale_bar, stamp_preliminary, tissue_at
from wsi_magnet.results.pyramid import Pyramid
from wsi_magnet.results.reader import Result
from wsi_magnet.scales import scale_at

Pixels = npt.NDArray[np.uint8]

_PAPER_PX = 1500
"""Longest side of the picture in print: 180 mm at 210 dots an inch."""

_THUMBNAIL_PX = 220
"""Longest side of the picture in the index."""

_OPACITY, _OPACITY_ALONE = 0.4, 0.9
"""Opacity of the colours over a slide, and without one."""

_NO_SLIDE = 243
"""Grey value under a mask whose slide is missing."""

_JPEG = {"quality": 85, "optimize": True}


@dataclass(frozen=True, slots=True)
class Pictures:
    """Encoded pictures of one size."""

    size: Size
    mpp: float
    """Microns per pixel."""
    slide: bytes | None
    """JPEG; None where the slide is missing."""
    why_no_slide: str
    labels: bytes
    """Grey PNG whose values are the labels."""
    uncertainty: bytes | None
    """Grey JPEG, 0 = certain; None where the run did not keep it."""
    paper: bytes
    """JPEG of the classes over the slide with a scale bar, for print and for browsers without scripts."""
    thumbnail: bytes
    """The same picture, small."""


def take_pictures(source: Result, longest_px: int) -> Pictures:
    """Read the pictures of a page; memory is bounded by `longest_px`, the largest side in pixels. Raises StoreError."""
    geometry = source.geometry
    mpp = geometry.mpp * max(1.0, max(geometry.size.wh) / longest_px)
    size = scale_at(mpp, geometry.slide_mpp_xy, geometry.canvas).size
    labels = _sampled(source, source.mask_image, size, mpp)
    doubt = _sampled(source, source.uncertainty_image, size, mpp) if source.uncertainty_image is not None else None
    tissue, why = _slide(source, size, mpp)
    under = tissue if tissue is not None else np.full((*size.hw, 3), _NO_SLIDE, np.uint8)
    paper = _blended(under, labels, source, _OPACITY if tissue is not None else _OPACITY_ALONE)
    if source.running:
        stamp_preliminary(paper)
    small = paper.copy()
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    _add_scale_bar(paper, mpp * size.width / paper.width)
    return Pictures(
        size,
        mpp,
        _encoded(Image.fromarray(tissue), "JPEG", **_JPEG) if tissue is not None else None,
        why,
        _encoded(Image.fromarray(labels), "PNG", optimize=True),
        _encoded(Image.fromarray(doubt), "JPEG", quality=70, optimize=True) if doubt is not None else None,
        _encoded(paper, "JPEG", **_JPEG),
        _encoded(small, "JPEG", **_JPEG),
    )


def codes_png(codes: Pixels) -> bytes:
    """uint8 (rows, columns) as a grey PNG."""
    return _encoded(Image.fromarray(codes), "PNG", optimize=True)


def _blended(under: Pixels, labels: Pixels, source: Result, opacity: float) -> Image.Image:
    """The picture for print; reduced before blending, which is done in floats."""
    picture = Image.fromarray(under)
    picture.thumbnail((_PAPER_PX, _PAPER_PX))
    reduced = Image.fromarray(labels).resize(picture.size, Image.Resampling.NEAREST)
    return Image.fromarray(blend(np.asarray(picture), np.asarray(reduced), vivid(source.classes), opacity))


def _slide(source: Result, size: Size, mpp: float) -> tuple[Pixels | None, str]:
    """The slide, uint8 (h, w, 3); or None and the reason."""
    try:
        with closing(open_own_slide(source)) as reader:
            return tissue_at(reader, size, mpp), ""
    except WsiMagnetError as error:
        return None, str(error)


def _sampled(source: Result, pyramid: Pyramid, size: Size, mpp: float) -> Pixels:
    """An image sampled at pixel centres from the nearest finer level, uint8 (h, w)."""
    level = max(i for i in source.levels if source.mpp_of(i) <= mpp * (1 + 1e-9))
    stored = pyramid.spec.sizes[level]
    pixels = pyramid.read(level, Box.of(stored))
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * (mpp / source.mpp_of(level))).astype(np.intp), most - 1)
        for n, most in zip(size.hw, stored.hw, strict=True)
    )
    return np.ascontiguousarray(pixels[np.ix_(rows, cols)])


def _add_scale_bar(picture: Image.Image, mpp: float) -> None:
    """Draw a scale bar in the lower right corner, on white."""
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    font_px = max(16, max(width, height) // 50)
    top = height - font_px - 26
    draw.rectangle((width - width // 5 - 34, top - 8, width - 8, height - 6), fill="white")
    scale_bar(draw, width, top, mpp, ImageFont.load_default(font_px))


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
