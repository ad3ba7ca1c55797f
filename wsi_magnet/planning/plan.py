"""What will be done, before anything is: passes, tiles and cells with their counts; touches no file and no pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_magnet.config import CELL_PX, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box, Size, ceil_div, halved_until, round_up
from wsi_magnet.scales import Ladder, Scale, best_level
from wsi_magnet.slides.types import SlideInfo

CONTEXT_PX = 128
"""Least halo of the coarsest scale. It has no coarser result to lean on, so its halo is all the context it gets; with
32 neighbouring cells disagreed along their border, and every finer scale inherited the step. It costs little: the
coarsest scale is a sixteenth of the work and less."""

Cells = npt.NDArray[np.bool_]
"""bool (rows, columns) over a scale's cells."""


@dataclass(frozen=True, slots=True)
class CellTask:
    """One cell of a tile and what becomes of it."""

    row: int
    col: int
    refine: bool
    """True: read, segmented and refined; False: the coarser result is carried over."""


@dataclass(frozen=True, slots=True)
class TileTask:
    """The unit of work that travels: where, at which scale, and which of its cells; a few hundred bytes, no pixels."""

    scale: int
    row: int
    col: int
    cells: tuple[CellTask, ...]

    @property
    def key(self) -> tuple[int, int, int]:
        """What the journal knows it by."""
        return self.scale, self.row, self.col


@dataclass(frozen=True, slots=True)
class PatchGeometry:
    """The part of a scale's layout that the networks depend on.

    It is equal for all slides that are segmented with one bundle, so patches of several slides can share a batch.
    """

    index: int
    """Index of the scale, 0 = coarsest."""
    halo_px: int
    """Margin of a patch round its cell."""
    ratio: int
    """Pixels of the scale per pixel of the coarsest."""

    @property
    def patch_px(self) -> int:
        """Side of a patch: a cell with its halo."""
        return CELL_PX + 2 * self.halo_px


@dataclass(frozen=True, slots=True)
class ScaleLayout:
    """The geometry of a pass: how cells, patches and tiles lie on the scale's grid; small, and travels with a job."""

    scale: Scale
    slide_level: int
    """Slide level that is read."""
    mask_level: int
    """Level of the result that has this scale's grid, 0 = finest."""
    halo_px: int
    """Margin round a cell that the networks see and that is cut off."""
    ratio: int
    """Pixels of this scale per pixel of the coarsest: the grid on which the query score is blurred."""
    tile_px: int

    @property
    def geometry(self) -> PatchGeometry:
        """The part that the networks depend on."""
        return PatchGeometry(self.scale.index, self.halo_px, self.ratio)

    @property
    def patch_px(self) -> int:
        """Side of a patch: a cell with its halo."""
        return self.geometry.patch_px

    @property
    def tile_cells(self) -> int:
        """Cells along a tile's side."""
        return self.tile_px // CELL_PX

    def tile_box(self, row: int, col: int) -> Box:
        """The tile's pixels on the scale's grid, cut at its edge."""
        return square(row, col, self.tile_px).intersect(self.scale.grid)

    def cell_box(self, row: int, col: int) -> Box:
        """The cell's pixels on the scale's grid, cut at its edge."""
        return square(row, col, CELL_PX).intersect(self.scale.grid)

    def patch_box(self, row: int, col: int) -> Box:
        """The patch's pixels: always `patch_px` square, so it may reach beyond the grid."""
        return square(row, col, CELL_PX).grow(self.halo_px)


@dataclass(frozen=True, eq=False)
class ScalePlan:
    """One scale over the whole slide: its geometry, and where there is tissue."""

    layout: ScaleLayout
    tissue: Cells

    @property
    def scale(self) -> Scale:
        """The scale that the pass is about."""
        return self.layout.scale

    @property
    def tiles(self) -> Cells:
        """Bool (tile rows, tile columns): True where a tile holds tissue."""
        return pool_any(self.tissue, self.layout.tile_cells)

    def tasks(self, refined: Cells) -> Iterator[TileTask]:
        """A task for each tile with tissue, row by row; `refined` says which cells are to be refined."""
        n = self.layout.tile_cells
        for row, col in np.argwhere(self.tiles).tolist():
            cells = tuple(
                CellTask(r, c, bool(refined[r, c]))
                for r in range(row * n, min((row + 1) * n, self.tissue.shape[0]))
                for c in range(col * n, min((col + 1) * n, self.tissue.shape[1]))
                if self.tissue[r, c]
            )
            yield TileTask(self.scale.index, row, col, cells)


@dataclass(frozen=True, eq=False)
class Plan:
    """The passes over one slide, coarse to fine."""

    ladder: Ladder
    passes: tuple[ScalePlan, ...]
    tissue_share: float
    """Part of the canvas that is tissue."""

    @property
    def layouts(self) -> tuple[ScaleLayout, ...]:
        """The geometry of every pass."""
        return tuple(p.layout for p in self.passes)

    @property
    def pyramid_sizes(self) -> tuple[Size, ...]:
        """Extent of each level of the mask, finest first: one a scale, then halved until a level fits in a cell."""
        return halved_until([p.scale.size for p in reversed(self.passes)], CELL_PX)


def halo_px(least_px: int, median_px: int, ratio: int) -> int:
    """The margin that a scale needs: the bundle's, and room for the median on the coarsest grid, in whole 32s.

    A multiple of 32 keeps patches multiples of every network's stride and of the grid (ratios up to 32).
    """
    return round_up(max(least_px, median_px // 2 * ratio, 1), max(32, ratio))


def make_plan(
    info: SlideInfo,
    ladder: Ladder,
    tissue_cells: Sequence[Cells],
    config: RunConfig,
    *,
    least_halo_px: int,
    median_px: int,
) -> Plan:
    """Lay out every pass.

    tissue_cells: for each scale of `ladder`, bool (rows, columns) of its cells. Raises ConfigError if shapes disagree.
    """
    downsamples = [level.downsample for level in info.levels]
    passes = []
    for scale, tissue in zip(ladder.scales, tissue_cells, strict=True):
        expected = (ceil_div(scale.size.height, CELL_PX), ceil_div(scale.size.width, CELL_PX))
        if tissue.shape != expected:
            raise ConfigError(f"tissue has {tissue.shape} cells at {scale.mpp:g} mpp where the grid has {expected}")
        ratio = ladder.ratio(scale)
        level = best_level(downsamples, min(scale.downsample_xy))
        least = max(least_halo_px, CONTEXT_PX) if scale.index == 0 else least_halo_px
        halo = halo_px(least, median_px, ratio)
        layout = ScaleLayout(scale, level, len(ladder) - 1 - scale.index, halo, ratio, config.tile_px)
        passes.append(ScalePlan(layout, tissue))
    share = float(tissue_cells[-1].mean()) if tissue_cells else 0.0
    return Plan(ladder, tuple(passes), share)


def pool_any(cells: Cells, n: int) -> Cells:
    """Bool (ceil(rows / n), ceil(columns / n)): True where any of n x n is."""
    rows, cols = (ceil_div(length, n) for length in cells.shape)
    padded = np.zeros((rows * n, cols * n), bool)
    padded[: cells.shape[0], : cells.shape[1]] = cells
    return np.asarray(padded.reshape(rows, n, cols, n).any(axis=(1, 3)))


def square(row: int, col: int, side_px: int) -> Box:
    """The square of a grid of such squares, in pixels."""
    return Box(col * side_px, row * side_px, (col + 1) * side_px, (row + 1) * side_px)
