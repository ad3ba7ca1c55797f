"""What is labelled on a sample, and where: all its label sets, read once block by block and counted.

Where several annotators draw the same image ("majority", "soft") a pixel counts for all that any of them says. Where
files lie over one another ("first") it counts for what lies on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_magnet.annotations.types import Sets
from wsi_magnet.dataset.open_sample import OpenSample, naming_row
from wsi_magnet.geometry import Box, Size, ceil_div
from wsi_magnet.scales import Scale

BLOCK_PX = 64
"""Side of the squares for which is noted what they hold."""

READ_PX = 1024
"""Side of the blocks that are read; a multiple of BLOCK_PX."""


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What is labelled on a sample at one scale."""

    scale: Scale
    counts: Mapping[int, int]
    """Pixels by set; what is not labelled is left out."""
    presence: npt.NDArray[np.uint32]
    """uint32 (rows, columns), of squares of `block_px` of the scale's grid: all classes that some labelled pixel in it
    may be; 0 where nothing is labelled."""
    block_px: int = BLOCK_PX

    def class_pixels(self, n_classes: int) -> npt.NDArray[np.float64]:
        """Pixels by class, float64 (n_classes,); one that may be of several classes counts in equal parts for each."""
        pixels = np.zeros(n_classes, np.float64)
        for labels, count in self.counts.items():
            members = [i for i in range(n_classes) if labels >> i & 1]
            pixels[members] += count / max(len(members), 1)
        return pixels


def check_labels(opened: OpenSample) -> None:
    """Meet every label of every annotation, at its own resolution and without drawing any.

    Raises ManifestError, naming row, file and label, for the first that is not known.
    """
    with naming_row(opened.sample):
        for annotation in opened.annotations:
            annotation.check()


def survey(opened: OpenSample, scale: Scale) -> Survey:
    """Read and count all label sets of a sample at a scale, and check all its labels.

    A label can be so thin that no pixel of the scale has its centre on it; `check_labels` meets it all the same.
    Raises ManifestError.
    """
    check_labels(opened)
    counts: Counter[int] = Counter()
    grid = Size(ceil_div(scale.size.width, BLOCK_PX), ceil_div(scale.size.height, BLOCK_PX))
    presence = np.zeros(grid.hw, np.uint32)
    for box in scale.grid.squares(READ_PX):
        sets = _said(opened, scale, box)
        labelled = sets != opened.ignored
        if labelled.any():
            values, pixels = np.unique(sets[labelled], return_counts=True)
            counts.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
            part = _any_in_squares(np.where(labelled, sets, np.uint32(0)))
            row, column = box.y0 // BLOCK_PX, box.x0 // BLOCK_PX
            presence[row : row + part.shape[0], column : column + part.shape[1]] = part
    return Survey(scale, dict(sorted(counts.items())), presence)


def _said(opened: OpenSample, scale: Scale, box: Box) -> Sets:
    """uint32 (box height, box width): the set of each pixel as it counts here."""
    if opened.sample.consensus == "first":
        return opened.sets(scale, box)
    together = np.zeros(box.size.hw, np.uint32)
    for sets in opened.each_sets(scale, box):
        together |= np.where(sets != opened.ignored, sets, np.uint32(0))
    together[together == 0] = opened.ignored
    return together


def _any_in_squares(sets: Sets) -> Sets:
    """Bitwise or over squares of BLOCK_PX from the upper left; the last may be smaller."""
    rows = np.bitwise_or.reduceat(sets, np.arange(0, sets.shape[0], BLOCK_PX), axis=0)
    return np.bitwise_or.reduceat(rows, np.arange(0, sets.shape[1], BLOCK_PX), axis=1)
