"""Polygons keep their holes and areas, and large ones are cut into pieces that fit."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from tests.export.polygonize.traced import Labels, labels, painted, traced
from wsi_magnet.export.polygonize.polygons import Shape, ShapeLimits, cut_polygon, polygon_of, shapes_of


def shapes(image: Labels, limits: ShapeLimits) -> list[Shape]:
    return [shape for region in traced(image, 8) for shape in shapes_of(region, limits)]


def comb(teeth: int) -> Labels:
    """A region with four corners a tooth."""
    image = np.zeros((12, 2 * teeth), np.uint8)
    image[:, ::2], image[0] = 1, 1
    return image


@given(labels(), st.integers(8, 30))
def test_pieces_make_up_the_image(image: Labels, max_vertices: int) -> None:
    pieces = shapes(image, ShapeLimits(max_vertices=max_vertices))
    assert np.array_equal(painted(image.shape, [(s.polygon, s.region.code) for s in pieces]), image)


@given(labels(), st.integers(8, 30))
def test_no_piece_has_more_vertices(image: Labels, max_vertices: int) -> None:
    pieces = shapes(image, ShapeLimits(max_vertices=max_vertices))
    counts = [int(shapely.get_num_coordinates(s.polygon)) - 1 - len(s.polygon.interiors) for s in pieces]
    assert all(count <= max_vertices for count in counts)


@given(labels(), st.integers(8, 30))
def test_areas_of_pieces_add_up(image: Labels, max_vertices: int) -> None:
    pieces = shapes(image, ShapeLimits(max_vertices=max_vertices))
    assert sum(s.area_px for s in pieces) == pytest.approx(np.count_nonzero(image))


def test_a_large_region_is_cut_on_whole_pixels() -> None:
    pieces = list(cut_polygon(polygon_of(traced(comb(40))[0].rings), 50))
    assert len(pieces) > 1
    assert all(float(v).is_integer() for piece in pieces for v in shapely.get_coordinates(piece).ravel())


def test_pieces_say_that_they_are_parts() -> None:
    assert {s.part for s in shapes(comb(40), ShapeLimits(max_vertices=50))} == {True}


def test_small_regions_are_left_out() -> None:
    image = np.zeros((8, 8), np.uint8)
    image[0, 0], image[2:6, 2:6] = 1, 2
    assert [s.region.code for s in shapes(image, ShapeLimits(min_region_px=2))] == [2]


def test_small_holes_are_closed_and_larger_ones_stay() -> None:
    image = np.ones((12, 12), np.uint8)
    image[1, 1], image[5:9, 5:9] = 0, 0
    (shape,) = shapes(image, ShapeLimits(min_hole_px=2))
    assert shape.polygon.area == 144 - 16


def test_parts_of_a_large_region_are_never_too_small() -> None:
    """One row of a stroma that was cut is no speck."""
    image = np.ones((9, 4), np.uint8)
    regions = traced(image, 8, open_points=0)
    kept = [shape for region in regions for shape in shapes_of(region, ShapeLimits(min_region_px=30))]
    assert sum(shape.area_px for shape in kept) == 36
