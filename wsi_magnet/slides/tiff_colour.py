"""What a TIFF's samples mean as colours: everything becomes 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from tifffile import PHOTOMETRIC, TiffPage

from wsi_magnet.slides.types import Image
from wsi_magnet.slides.white import on_white

Samples = npt.NDArray[Any]
"""(rows, columns, samples a pixel), as stored: bool, uint8 or uint16."""

COLOURS = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
    PHOTOMETRIC.SEPARATED: 4,
}
"""What pixels may mean, and how many of their samples carry the colour."""


def samples_to_rgb(page: TiffPage, samples: Samples) -> Image:
    """uint8 (rows, columns, 3) RGB of a page's samples; alpha on white."""
    colours = COLOURS[PHOTOMETRIC(page.photometric)]
    if page.photometric == PHOTOMETRIC.PALETTE:
        assert page.colormap is not None  # a page without is refused when it is opened
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
