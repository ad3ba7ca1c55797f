"""Conversion of stored pixels to 8-bit RGB: alpha composed on white, and a TIFF's samples by their photometric tag."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from tifffile import PHOTOMETRIC, TiffPage

from wsi_magnet.slides.types import Image

Samples = npt.NDArray[Any]
"""(rows, columns, samples per pixel), as stored: bool, uint8 or uint16."""

COLOURS = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
    PHOTOMETRIC.SEPARATED: 4,
}
"""Photometric interpretations that can be read, each with the number of its samples that carry colour."""

WHITE = (255, 255, 255)
"""Colour of what no scanner has seen: as bare glass."""


def on_white(picture: Pillow.Image) -> Image:
    """Convert a picture of any 8-bit mode to uint8 (height, width, 3) RGB, with alpha composed on white.

    Always white, whatever background colour the metadata name: a mask must not depend on a viewer's setting.
    """
    if not picture.has_transparency_data:
        return np.array(picture.convert("RGB"))
    rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):  # almost all regions of almost all slides
        return np.array(rgba.convert("RGB"))
    canvas = Pillow.new("RGB", rgba.size, WHITE)
    canvas.paste(rgba, mask=alpha)
    return np.array(canvas)


def samples_to_rgb(page: TiffPage, samples: Samples) -> Image:
    """Convert a page's samples to uint8 (rows, columns, 3) RGB, with alpha composed on white."""
    colours = COLOURS[PHOTOMETRIC(page.photometric)]
    if page.photometric == PHOTOMETRIC.PALETTE:
        assert page.colormap is not None  # a page without a palette is refused when it is opened
        return np.stack([(channel >> 8).astype(np.uint8)[samples[..., 0]] for channel in page.colormap], axis=-1)
    values = _to_8_bits(samples, page.bitspersample)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        values[..., 0] = 255 - values[..., 0]
    if page.photometric == PHOTOMETRIC.SEPARATED:
        ink, black = 255 - values[..., :3].astype(np.uint32), 255 - values[..., 3:4].astype(np.uint32)
        return ((ink * black + 127) // 255).astype(np.uint8)
    rgb = values[..., :3] if colours == 3 else values[..., [0, 0, 0]]
    if page.extrasamples[:1] not in ((1,), (2,)):
        return np.ascontiguousarray(rgb)
    alpha = values[..., colours : colours + 1]
    if page.extrasamples[0] == 1:  # already multiplied by alpha
        whitened: Image = np.minimum(rgb.astype(np.uint32) + 255 - alpha, 255).astype(np.uint8)
        return whitened
    return on_white(Pillow.fromarray(np.concatenate([rgb, alpha], axis=-1)))


def _to_8_bits(samples: Samples, bits: int) -> npt.NDArray[np.uint8]:
    if bits == 8:
        return samples.astype(np.uint8)
    return (samples.astype(np.uint32) * 255 // ((1 << bits) - 1)).astype(np.uint8)
