"""Cells and pixels of areas, against shapely point by point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from wsi_magnet.geometry import Box, Size
from wsi_magnet.planning.areas import Area, Areas, _beneath
from wsi_magnet.planning.plan import ScaleLayout
from wsi_magnet.scales import Scale, scale_at

CANVAS = Size(300, 200)


def polygon(points: list[tuple[float, float]]) -> BaseGeometry:
    return shapely.make_valid(shapely.Polygon(points))


points = st.tuples(st.floats(-50, 350, width=32), st.floats(-50, 250, width=32))
outlines = (
    st.lists(points, min_size=3, max_size=9, unique=True)
    .map(polygon)
    .filter(lambda one: one.area > 1 and one.geom_type in ("Polygon", "MultiPolygon"))
)


def scale_of(downsample: float) -> Scale:
    return scale_at(0.25 * downsample, (0.25, 0.25), CANVAS)


def centres(scale: Scale, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """X and y of the pixels' centres in level-0 pixels."""
    y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1] + 0.5
    return x * scale.downsample_xy[0], y * scale.downsample_xy[1]


def away_from_edges(outline: BaseGeometry, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """True for points that no rounding moves across an edge."""
    return np.asarray(shapely.distance(outline.boundary, shapely.points(x, y)) > 1e-6)


@given(
    outline=outlines,
    downsample=st.sampled_from([1.0, 2.5, 4.0]),
    corner=st.tuples(st.integers(0, 40), st.integers(0, 30)),
)
def test_pixels_are_those_of_shapely(outline: BaseGeometry, downsample: float, corner: tuple[int, int]) -> None:
    scale = scale_of(downsample)
    box = Box(corner[0], corner[1], corner[0] + 30, corner[1] + 25)
    x, y = centres(scale, box)
    found = Area("a", "", outline).inside(scale, box)
    sure = away_from_edges(outline, x, y)
    assert (found == shapely.contains_xy(outline, x, y))[sure].all()


@given(outline=outlines, other=outlines, downsample=st.sampled_from([1.0, 2.5]))
def test_cells_hold_every_pixel_and_few_others(outline: BaseGeometry, other: BaseGeometry, downsample: float) -> None:
    scale, cell_px = scale_of(downsample), 16
    areas = Areas((Area("a", "", outline),), (Area("b", "", other),))
    cells = areas.cells(scale, cell_px)
    inside = areas.inside(scale, scale.grid)
    rows, cols = cells.shape
    padded = np.zeros((rows * cell_px, cols * cell_px), np.bool_)
    padded[: inside.shape[0], : inside.shape[1]] = inside
    with_pixels = padded.reshape(rows, cell_px, cols, cell_px).any(axis=(1, 3))
    assert not (with_pixels & ~cells).any()
    left, top = np.meshgrid(np.arange(cols) * cell_px * downsample, np.arange(rows) * cell_px * downsample)
    side = cell_px * downsample
    boxes = shapely.box(left, top, left + side, top + side)
    assert not (cells & ~shapely.intersects(outline, boxes)).any()


@given(
    cells=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), max_size=5),
    halo_px=st.sampled_from([32, 128, 512]),
)
def test_coarser_cells_are_those_under_the_patches(cells: list[tuple[int, int]], halo_px: int) -> None:
    layout = ScaleLayout(scale_of(1.0), 0, 0, halo_px, 2, 512, 128)
    given_cells = np.zeros((10, 13), np.bool_)
    expected = np.zeros((5, 7), np.bool_)
    for row, col in cells:
        given_cells[row, col] = True
        box = layout.patch_box(row, col).halve().grow(2)
        for r in range(5):
            for c in range(7):
                cell = Box(c * 128, r * 128, (c + 1) * 128, (r + 1) * 128)
                expected[r, c] |= not box.intersect(cell).empty
    assert (_beneath(given_cells, layout, (5, 7)) == expected).all()


def test_regions_are_counted_each_and_without_what_is_excluded() -> None:
    scale = scale_of(1.0)
    one, two = (Area(name, "", shapely.box(x, 10, x + 40, 50)) for name, x in (("one", 10), ("two", 30)))
    areas = Areas((one, two), (Area("hole", "", shapely.box(30, 10, 40, 20)),))
    counted = {index: int(inside.sum()) for index, inside in areas.by_region(scale, scale.grid)}
    assert counted == {0: 1500, 1: 1500}
    assert not dict(areas.by_region(scale, Box(200, 100, 300, 200)))


def test_areas_come_back_as_they_were_saved(tmp_path: Path) -> None:
    ring = shapely.Polygon([(0.1, 1 / 3), (200, 7), (100, 150.75)], [[(90, 60), (110, 60), (100, 80)]])
    areas = Areas((Area("Größe", "Tumor", ring),), (), (Area("t", "", shapely.box(0, 0, 9, 9)),))
    areas.save(tmp_path / "areas.geojson")
    again = Areas.load(tmp_path / "areas.geojson")
    assert again.digest == areas.digest
    assert again.regions[0].outline.equals_exact(ring)
    assert (again.excluded, len(again.tissue or ())) == ((), 1)


@pytest.mark.parametrize("change", ["name", "point", "role"])
def test_the_digest_depends_on_everything(change: str) -> None:
    box = shapely.box(0, 0, 10, 10)
    first = Areas((Area("a", "", box),))
    other = {
        "name": Areas((Area("b", "", box),)),
        "point": Areas((Area("a", "", shapely.box(0, 0, 10, 10.001)),)),
        "role": Areas((), (Area("a", "", box),)),
    }[change]
    assert first.digest != other.digest
