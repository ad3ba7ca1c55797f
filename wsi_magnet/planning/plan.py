"""Plan of a run: the scales with their tiles and cells; touches no file and no pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_magnet.config import CHUNK_PX, DEFAULT_CELL_PX, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box, Size, ceil_div, halved_until, round_up
from wsi_magnet.scales import Ladder, Scale, best_level
from wsi_magnet.slides.types import SlideInfo

CONTEXT_PX = 128
"""Least halo of the coarsest scale, whatever the side of a cell. Without a coarser result its halo is all the context
that it has; with 32 pixels neighbouring cells disagreed along their border, and every finer scale inherited the step.
How far a network has to look is its own matter and no share of the cell: smaller cells have more borders, and views of
a training have that halo too. The cost is small: with three scales the coarsest is a sixteenth of the pixels, each read
2.3 times in cells of 512 and 9 times in cells of 128."""

Cells = npt.NDArray[np.bool_]
"""bool (rows, columns) over a scale's cells."""


@dataclass(frozen=True, slots=True)
class CellTask:
    """A cell of a tile and its treatment."""

    row: int
    col: int
    refine: bool
    """True: read, segmented and refined; False: the coarser result is upsampled."""


@dataclass(frozen=True, slots=True)
class TileTask:
    """Unit of work for a worker: a tile of a scale and its cells; a few hundred bytes, no pixels."""

    scale: int
    row: int
    col: int
    cells: tuple[CellTask, ...]

    @property
    def key(self) -> tuple[int, int, int]:
        """Key in the journal: (scale, tile row, tile column)."""
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
    cell_px: int = DEFAULT_CELL_PX
    """Side of a cell."""

    @property
    def patch_px(self) -> int:
        """Side of a patch: a cell with its halo."""
        return self.cell_px + 2 * self.halo_px


@dataclass(frozen=True, slots=True)
class ScaleLayout:
    """Layout of a scale: cells, patches and tiles on its grid; small, and sent to workers with the run."""

    scale: Scale
    slide_level: int
    """Index of the slide level that is read."""
    mask_level: int
    """Level of the result that has this scale's grid, 0 = finest."""
    halo_px: int
    """Margin round a cell that is input of the networks and cut off their output."""
    ratio: int
    """Pixels of this scale per pixel of the coarsest: the grid on which the query score is blurred."""
    tile_px: int
    cell_px: int = DEFAULT_CELL_PX
    """Side of a cell, of which a tile's is a multiple."""

    @property
    def geometry(self) -> PatchGeometry:
        """The part that the networks depend on."""
        return PatchGeometry(self.scale.index, self.halo_px, self.ratio, self.cell_px)

    @property
    def patch_px(self) -> int:
        """Side of a patch: a cell with its halo."""
        return self.geometry.patch_px

    @property
    def tile_cells(self) -> int:
        """Cells along a tile's side."""
        return self.tile_px // self.cell_px

    def tile_box(self, row: int, col: int) -> Box:
        """The tile's pixels on the scale's grid, cut at its edge."""
        return grid_box(row, col, self.tile_px).intersect(self.scale.grid)

    def cell_box(self, row: int, col: int) -> Box:
        """The cell's pixels on the scale's grid, cut at its edge."""
        return grid_box(row, col, self.cell_px).intersect(self.scale.grid)

    def patch_box(self, row: int, col: int) -> Box:
        """The patch's pixels: always `patch_px` square, so it may reach beyond the grid."""
        return grid_box(row, col, self.cell_px).grow(self.halo_px)


@dataclass(frozen=True, eq=False)
class ScalePlan:
    """One scale over the whole slide: its layout and its cells with tissue."""

    layout: ScaleLayout
    tissue: Cells

    @property
    def scale(self) -> Scale:
        """The scale itself."""
        return self.layout.scale

    @property
    def tiles(self) -> Cells:
        """Bool (tile rows, tile columns): True where a tile holds tissue."""
        return pool_any(self.tissue, self.layout.tile_cells)

    def tasks(self, refined: Cells) -> Iterator[TileTask]:
        """A task for each tile with tissue, row by row; `refined`: cells to be refined."""
        for row, col in np.argwhere(self.tiles).tolist():
            cells = tuple(CellTask(r, c, bool(refined[r, c])) for r, c in self.cells_of(row, col))
            yield TileTask(self.scale.index, row, col, cells)

    def cells_of(self, row: int, col: int) -> tuple[tuple[int, int], ...]:
        """(row, column) of the cells with tissue in a tile, row by row; empty beyond the grid."""
        n = self.layout.tile_cells
        return tuple(
            (r, c)
            for r in range(row * n, min((row + 1) * n, self.tissue.shape[0]))
            for c in range(col * n, min((col + 1) * n, self.tissue.shape[1]))
            if self.tissue[r, c]
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """Plan of one slide."""

    ladder: Ladder
    scales: tuple[ScalePlan, ...]
    """Coarse to fine."""
    tissue_share: float
    """Share of the finest scale's cells that hold tissue or lie next to it."""

    @property
    def layouts(self) -> tuple[ScaleLayout, ...]:
        """Layout of every scale."""
        return tuple(one.layout for one in self.scales)

    @property
    def pyramid_sizes(self) -> tuple[Size, ...]:
        """Extent of each level of the mask, finest first: one per scale, then halved until a level fits in a chunk."""
        return halved_until([one.scale.size for one in reversed(self.scales)], CHUNK_PX)


def halo_px(least_px: int, median_px: int, ratio: int) -> int:
    """Halo of a scale: at least the bundle's and the radius of the median on the coarsest grid, in multiples of 32.

    A multiple of 32 keeps patches multiples of every network's stride and of the grid (ratios up to 32).
    """
    return round_up(max(least_px, median_px // 2 * ratio, 1), max(32, ratio))


def scale_halo_px(
    index: int, ratio: int, *, cell_px: int, least_px: int, median_px: int, patch_px: int | None = None
) -> int:
    """Halo of a scale of a bundle. patch_px: the only side of patches that its network takes."""
    if patch_px is not None:
        return (patch_px - cell_px) // 2
    return halo_px(max(least_px, CONTEXT_PX) if index == 0 else least_px, median_px, ratio)


def make_plan(
    info: SlideInfo,
    ladder: Ladder,
    tissue_cells: Sequence[Cells],
    config: RunConfig,
    *,
    cell_px: int,
    least_halo_px: int,
    median_px: int,
    finest_halo_px: int = 0,
    patch_px: int | None = None,
) -> Plan:
    """Lay out every scale.

    finest_halo_px: least halo of the finest scale, where a method looks farther than the networks. patch_px: the only
    side of patches that the network takes.

    tissue_cells: for each scale of `ladder`, bool (rows, columns) of its cells. Raises ConfigError if shapes disagree.
    """
    downsamples = [level.downsample for level in info.levels]
    scales = []
    for scale, tissue in zip(ladder.scales, tissue_cells, strict=True):
        expected = (ceil_div(scale.size.height, cell_px), ceil_div(scale.size.width, cell_px))
        if tissue.shape != expected:
            raise ConfigError(f"tissue has {tissue.shape} cells at {scale.mpp:g} mpp where the grid has {expected}")
        ratio = ladder.ratio(scale)
        level = best_level(downsamples, min(scale.downsample_xy))
        halo = scale_halo_px(
            scale.index, ratio, cell_px=cell_px, least_px=least_halo_px, median_px=median_px, patch_px=patch_px
        )
        if finest_halo_px and scale.index == len(ladder) - 1:
            halo = max(halo, halo_px(finest_halo_px, median_px, ratio))
        layout = ScaleLayout(scale, level, len(ladder) - 1 - scale.index, halo, ratio, config.tile_px, cell_px)
        scales.append(ScalePlan(layout, tissue))
    share = float(tissue_cells[-1].mean()) if tissue_cells else 0.0
    return Plan(ladder, tuple(scales), share)


def pool_any(cells: Cells, n: int) -> Cells:
    """Bool (ceil(rows / n), ceil(columns / n)): True where any of n x n cells is."""
    rows, cols = (ceil_div(length, n) for length in cells.shape)
    padded = np.zeros((rows * n, cols * n), bool)
    padded[: cells.shape[0], : cells.shape[1]] = cells
    return np.asarray(padded.reshape(rows, n, cols, n).any(axis=(1, 3)))


def grid_box(row: int, col: int, side_px: int) -> Box:
    """Box of a row and column on a grid of squares of that side, in pixels."""
    return Box(col * side_px, row * side_px, (col + 1) * side_px, (row + 1) * side_px)
