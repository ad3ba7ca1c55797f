"""An estimate of the number of objects before they are traced, from a few blocks of the mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsi_magnet.export.objects import ObjectOptions, chosen_classes
from wsi_magnet.geometry import Box
from wsi_magnet.results.reader import Result

_BLOCKS = 24
"""Number of blocks in which regions are counted."""


def estimated_objects(source: Result, options: ObjectOptions) -> int:
    """Estimate of the number of regions that an export makes objects of; exact for masks of few blocks, but for regions
    that several of them share.

    Raises ConfigError for a class that the result does not have, StoreError where the result cannot be read.
    """
    labels = [one.value for one in chosen_classes(source, options.classes)]
    boxes = [box for box in source.blocks(source.level) if source.mask_image.stored(source.level, box)]
    if not boxes:
        return 0
    chosen = [boxes[i] for i in np.unique(np.linspace(0, len(boxes) - 1, _BLOCKS).round().astype(int))]
    smallest = options.min_area_um2 / source.geometry.mpp**2
    found = sum(_regions(source.mask_image.read(source.level, box), box, labels, smallest) for box in chosen)
    pixels, of_chosen = (sum(box.size.width * box.size.height for box in some) for some in (boxes, chosen))
    return round(found * pixels / of_chosen)


def _regions(pixels: npt.NDArray[np.uint8], box: Box, labels: list[int], smallest_px: float) -> int:
    """Number of regions of a block, without those that begin in the block above or on its left."""
    count = 0
    for value in np.intersect1d(np.unique(pixels), labels):
        numbers, n = ndimage.label(pixels == value)
        sizes = np.bincount(numbers.ravel(), minlength=n + 1)
        sizes[0] = 0
        if box.y0:
            sizes[numbers[0]] = 0
        if box.x0:
            sizes[numbers[:, 0]] = 0
        count += int(np.count_nonzero(sizes >= max(1.0, smallest_px)))
    return count
