"""A slide made for a look: a small tiled pyramid of JPEGs, with something on it that looks like tissue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

Image = npt.NDArray[np.uint8]

SIDE_PX = 1024
"""Two cells along a side at the finest scale."""

TILE_PX, FACTOR = 256, 2

_GLASS, _PINK, _PURPLE = (244, 243, 244), (226, 160, 192), (110, 70, 150)


def picture() -> Image:
    """uint8 (SIDE_PX, SIDE_PX, 3): a pink disc with purple spots on glass, the same each time."""
    rng = np.random.default_rng(5)
    y, x = np.indices((SIDE_PX, SIDE_PX)) / (SIDE_PX / 2) - 1
    spots = ndimage.gaussian_filter(rng.standard_normal((SIDE_PX, SIDE_PX)), 6)
    drawn = np.empty((SIDE_PX, SIDE_PX, 3))
    drawn[:] = _GLASS
    tissue = x**2 + y**2 < 0.8
    drawn[tissue] = _PINK
    drawn[tissue & (spots > spots.std())] = _PURPLE
    drawn = ndimage.gaussian_filter(drawn, (1, 1, 0)) + rng.normal(0, 2, drawn.shape)
    return np.asarray(np.clip(drawn, 0, 255), np.uint8)


def halved(image: Image) -> Image:
    """uint8 (H / 2, W / 2, 3)."""
    height, width = (side // FACTOR for side in image.shape[:2])
    squares = image.reshape(height, FACTOR, width, FACTOR, 3)
    return np.asarray(squares.mean(axis=(1, 3)).round().astype(np.uint8))


def write_slide(path: Path, mpp: float) -> Image:
    """Write it with two levels and a resolution; returns level 0's pixels before compression."""
    image = picture()
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate((image, halved(image))):
            per_cm = 1e4 / (mpp * FACTOR**index)
            tiff.write(
                level,
                photometric="rgb",
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                compressionargs={"level": 90},
                subfiletype=int(index > 0),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return image
