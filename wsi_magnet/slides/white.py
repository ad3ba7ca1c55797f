"""Alpha composed on white: what no scanner has seen looks like bare glass."""

from __future__ import annotations

import numpy as np
from PIL import Image as Pillow

from wsi_magnet.slides.types import Image

WHITE = (255, 255, 255)


def on_white(picture: Pillow.Image) -> Image:
    """The same picture of any 8-bit mode as uint8 (height, width, 3) RGB; its alpha, where it has one, on white.

    White always, whatever background colour a slide's metadata names: a mask must not depend on a viewer's taste.
    """
    if not picture.has_transparency_data:
        return np.array(picture.convert("RGB"))
    rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):  # nearly every region of nearly every slide
        return np.array(rgba.convert("RGB"))
    canvas = Pillow.new("RGB", rgba.size, WHITE)
    canvas.paste(rgba, mask=alpha)
    return np.array(canvas)
