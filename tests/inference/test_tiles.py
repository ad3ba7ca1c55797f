"""Placement: a cut-out is the same whichever region it comes from; quarters add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.config import CELL_SIDES_PX
from wsi_magnet.geometry import Box
from wsi_magnet.inference.tiles import (
    CellPixels,
    Region,
    TileCanvas,
    clear_outside,
    coarse_box,
    quarters,
    tissue_blocks,
)

CELL_PX = max(CELL_SIDES_PX)


def numbered(grid: Box) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rows, cols = np.mgrid[0 : grid.y1, 0 : grid.x1]
    return np.stack([rows % 251, cols % 241]).astype(np.uint8)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 59), st.integers(0, 59), st.integers(0, 20))
def test_a_cut_out_does_not_depend_on_its_region(width: int, height: int, x: int, y: int, margin: int) -> None:
    grid = Box(0, 0, width, height)
    pixels = numbered(grid)
    x, y = x % width, y % height
    box = Box(x - 9, y - 9, x + 9, y + 9)
    inner = box.intersect(grid)
    small = inner.grow(margin).intersect(grid)
    rows, cols = small.slices_yx
    from_small = Region(small, grid, pixels[:, rows, cols]).cut(box)
    from_all = Region(grid, grid, pixels).cut(box)
    assert from_small.shape == (2, 18, 18)
    assert (from_small == from_all).all()


def test_beyond_the_grid_it_is_mirrored() -> None:
    grid = Box(0, 0, 4, 1)
    region = Region(grid, grid, np.array([[[1, 2, 3, 4]]], np.uint8))
    assert region.cut(Box(-2, 0, 6, 1))[0, 0].tolist() == [2, 1, 1, 2, 3, 4, 4, 3]


def test_a_patch_is_upsampled_from_half_of_it_and_a_pixel_more() -> None:
    assert coarse_box(Box(-32, 480, 544, 1056)) == Box(-17, 239, 273, 529)


def test_cells_land_where_they_belong_and_are_cut_at_the_edge() -> None:
    tile = Box(1024, 512, 1024 + 700, 512 + 600)
    canvas = TileCanvas(tile, classes=2)
    cell = Box(1536, 1024, 1724, 1112)
    square = np.arange(CELL_PX * CELL_PX, dtype=np.uint32).reshape(CELL_PX, CELL_PX).astype(np.uint8)
    canvas.put(cell, CellPixels(np.stack([square, square]), square, square))
    assert (canvas.labels[512:, 512:] == square[:88, :188]).all()
    assert not canvas.labels[:512].any()
    assert (canvas.probabilities[1, 512:, 512:] == square[:88, :188]).all()


@given(st.integers(1, CELL_PX), st.integers(1, CELL_PX), st.sampled_from(CELL_SIDES_PX))
def test_quarters_count_the_pixels_on_the_grid(width: int, height: int, side: int) -> None:
    width, height = min(width, side), min(height, side)
    parts = quarters(np.full((side, side), 7, np.uint8), Box(0, 0, width, height))
    assert sum(n for _, n in parts) == width * height
    assert all(total == 7 * n for total, n in parts)
    assert parts[3][1] == max(0, width - side // 2) * max(0, height - side // 2)


def test_a_cell_of_any_side_lands_where_it_belongs() -> None:
    canvas = TileCanvas(Box(512, 0, 512 + 300, 280), classes=1)
    square = np.arange(128 * 128, dtype=np.uint32).reshape(128, 128).astype(np.uint8)
    canvas.put(Box(768, 256, 812, 280), CellPixels(square[None], square, square))
    assert (canvas.uncertainty[256:, 256:] == square[:24, :44]).all()
    assert not canvas.uncertainty[:256].any()
    with pytest.raises(AssertionError):
        canvas.put(Box(512, 0, 768, 256), CellPixels(square[None], square, square))


@pytest.mark.parametrize("side", CELL_SIDES_PX)
def test_blocks_with_tissue_are_those_of_the_cell(side: int) -> None:
    inside = np.zeros((side, 100), bool)
    inside[:64, :64] = True
    inside[64:, 64:100] = True
    found = tissue_blocks(inside, side).reshape(side // 64, side // 64)
    assert np.argwhere(found).tolist() == [[0, 0]], "36 of 64 columns are too few"


@pytest.mark.parametrize("background", [None, 1])
def test_glass_becomes_background(background: int | None) -> None:
    square = np.full((CELL_PX, CELL_PX), 7, np.uint8)
    cell = CellPixels(np.stack([square, square]), square, square)
    inside = np.ones((100, 90), bool)
    inside[3, 4] = False
    cleared = clear_outside(cell, inside, background)
    assert cleared.labels[3, 4] == cleared.uncertainty[3, 4] == 0
    assert cleared.probabilities[:, 3, 4].tolist() == ([0, 0] if background is None else [0, 255])
    assert (cleared.labels == 0).sum() == 1
    assert (square == 7).all(), "the input is left alone"
    assert clear_outside(cell, np.ones((5, 5), bool), background) is cell
