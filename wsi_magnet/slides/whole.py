"""A whole slide at a scale where it fits in memory, whatever parts of it cannot be decoded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import ceil_div
from wsi_magnet.scales import Scale
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.types import Image, SlideReader

LEAST_BLOCK_PX = 64
"""A block that cannot be read is quartered, as far as that."""


def read_whole(
    reader: SlideReader, scale: Scale, *, block_px: int, unread_grey: int
) -> tuple[Image, npt.NDArray[np.bool_]]:
    """The canvas at a scale, uint8 (rows, columns, 3) RGB, read in blocks; and bool (rows, columns), where it could not
    be read and is of that grey.
    """
    pixels = np.full((*scale.size.hw, 3), unread_grey, np.uint8)
    unread = np.zeros(scale.size.hw, np.bool_)
    todo = list(scale.grid.squares(block_px))
    while todo:
        block = todo.pop()
        try:
            pixels[block.slices_yx] = read_scale(reader, scale, block)
        except SlideReadError:
            if (side := max(block.size.wh)) > LEAST_BLOCK_PX:
                todo += block.squares(ceil_div(side, 2))
            else:
                unread[block.slices_yx] = True
    return pixels, unread
