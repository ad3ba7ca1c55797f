"""Regions from which patches are cut, and canvases on which the cells of a tile are placed; nothing is resampled."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsi_magnet.geometry import Box
from wsi_magnet.nets.profile import BLOCK_PX
from wsi_magnet.results.journal import Quarters

Pixels = npt.NDArray[np.uint8]

LEAST_TISSUE = 0.75
"""Least share of tissue in a block whose features are compared: the rim of a biopsy is mostly glass."""


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels of a box on a grid."""

    box: Box
    grid: Box
    """Box of the whole grid; a cut-out is mirrored beyond it."""
    pixels: Pixels
    """uint8 (channels, box height, box width)."""

    def cut(self, box: Box) -> Pixels:
        """uint8 (channels, height, width) of `box`, mirrored where it reaches beyond the grid.

        The part of the cut-out inside the grid is mirrored, and not the region: so the same box gives the same pixels,
        whatever region it is cut from.
        """
        inner = box.intersect(self.grid)
        rows, cols = inner.relative_to(self.box).slices_yx
        margins = [(0, 0), (inner.y0 - box.y0, box.y1 - inner.y1), (inner.x0 - box.x0, box.x1 - inner.x1)]
        pixels = self.pixels[:, rows, cols]
        return np.pad(pixels, margins, mode="symmetric") if any(map(any, margins)) else pixels


def coarse_box(patch: Box) -> Box:
    """Box of the coarser grid from which a patch is upsampled: half its coordinates, and a pixel more on each side."""
    return patch.halve().grow(1)


@dataclass(frozen=True, eq=False)
class CellPixels:
    """Result of one cell; S: its side in pixels."""

    probabilities: Pixels
    """uint8 (classes, S, S), 255 = 1."""
    labels: Pixels
    """uint8 (S, S), label values."""
    uncertainty: Pixels
    """uint8 (S, S), 255 = 1."""
    distances: npt.NDArray[np.float32] | None = None
    """float32 (blocks,): distance of each block of `BLOCK_PX` from the training data, row by row; 0 if not known."""
    changed_px: int = 0
    """Pixels to which refinement gave another label."""


def clear_outside(pixels: CellPixels, inside: npt.NDArray[np.bool_], background: int | None) -> CellPixels:
    """A cell with background where there is no tissue: label 0, uncertainty 0.

    inside: bool (rows, columns) from the cell's upper left corner, at most its side each. background: the channel of
    that class; None leaves all probabilities 0 there.
    """
    if inside.all():
        return pixels
    height, width = inside.shape
    probabilities, labels, uncertainty = (
        np.array(a) for a in (pixels.probabilities, pixels.labels, pixels.uncertainty)
    )
    for array in (probabilities, labels, uncertainty):
        array[..., :height, :width] *= inside
    if background is not None:
        probabilities[background, :height, :width] += np.uint8(255) * ~inside
    return replace(pixels, probabilities=probabilities, labels=labels, uncertainty=uncertainty)


def tissue_blocks(inside: npt.NDArray[np.bool_], cell_px: int) -> npt.NDArray[np.bool_]:
    """Bool (blocks,), row by row: blocks of a cell that are mostly tissue.

    inside: bool (rows, columns) from the cell's upper left corner, at most `cell_px` each; True for tissue.
    """
    whole = np.zeros((cell_px, cell_px), np.float32)
    whole[: inside.shape[0], : inside.shape[1]] = inside
    count = cell_px // BLOCK_PX
    share = whole.reshape(count, BLOCK_PX, count, BLOCK_PX).mean(axis=(1, 3))
    return np.asarray(share.ravel() >= LEAST_TISSUE)


class TileCanvas:
    """Images of a tile, assembled cell by cell."""

    def __init__(self, box: Box, classes: int) -> None:
        height, width = box.size.hw
        self.box = box
        self.probabilities = np.zeros((classes, height, width), np.uint8)
        self.labels = np.zeros((height, width), np.uint8)
        self.uncertainty = np.zeros((height, width), np.uint8)

    def put(self, cell: Box, pixels: CellPixels) -> None:
        """Place a cell, cut at the grid's edge."""
        rows, cols = cell.relative_to(self.box).slices_yx
        height, width = cell.size.hw
        side, other = pixels.labels.shape
        assert side == other >= max(height, width), (pixels.labels.shape, cell)
        self.probabilities[:, rows, cols] = pixels.probabilities[:, :height, :width]
        self.labels[rows, cols] = pixels.labels[:height, :width]
        self.uncertainty[rows, cols] = pixels.uncertainty[:height, :width]

    def clear(self, outside: npt.NDArray[np.bool_], background: int | None, *, probabilities: bool) -> None:
        """Set pixels to background: label 0, uncertainty 0.

        outside: bool (height, width). background: channel of that class; None leaves all probabilities 0 there.
        probabilities: True clears them too.
        """
        if not outside.any():
            return
        self.labels[outside] = 0
        self.uncertainty[outside] = 0
        if probabilities:
            self.probabilities[:, outside] = 0
            if background is not None:
                self.probabilities[background, outside] = 255


def quarters(uncertainty: Pixels, cell: Box) -> Quarters:
    """(sum, pixels) of a cell's four quarters, each a cell of the next scale; only pixels on the grid count.

    uncertainty: uint8 (S, S) of the whole cell. Whole numbers, so that the order of adding does not matter.
    """
    half = uncertainty.shape[0] // 2
    inside = uncertainty[: cell.size.height, : cell.size.width]
    parts = (inside[:half, :half], inside[:half, half:], inside[half:, :half], inside[half:, half:])
    a, b, c, d = ((int(part.sum(dtype=np.int64)), part.size) for part in parts)
    return a, b, c, d
