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
    return list(shapes_of(traced(image, 8), limits))


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
    """Rows of a stroma that was cut after each strip are no specks, and are joined to each other."""
    image = np.ones((9, 4), np.uint8)
    kept = list(shapes_of(traced(image, 8, open_points=0), ShapeLimits(min_region_px=30)))
    assert [(shape.area_px, shape.polygon.area) for shape in kept] == [(36, 36)]


@given(labels(), st.integers(8, 30), st.integers(0, 20), st.booleans())
def test_areas_of_pieces_are_the_pixels_of_the_regions_that_stay(
    image: Labels, max_vertices: int, smallest: int, cut: bool
) -> None:
    """Closed holes are in the polygon and not in its area, and no pixel of a region that was cut is lost."""
    regions = traced(image, 8, open_points=4 if cut else 1000)
    pieces = list(shapes_of(regions, ShapeLimits(smallest, smallest, max_vertices)))
    stay = sum(region.pixels for region in regions if region.cut or region.pixels >= smallest)
    assert sum(shape.area_px for shape in pieces) == pytest.approx(stay)


def test_the_area_of_each_piece_is_without_its_closed_holes() -> None:
    image = np.ones((20, 200), np.uint8)
    image[5, 3:100:4] = 0
    image[0, 1::2] = 0
    pieces = shapes(image, ShapeLimits(min_hole_px=2, max_vertices=60))
    pixels = [np.count_nonzero(image * painted(image.shape, [(one.polygon, 1)])) for one in pieces]
    assert len(pieces) > 3
    assert [one.area_px for one in pieces] == pixels


def test_no_piece_is_smaller_than_the_smallest_region() -> None:
    """A mesh whose threads the cuts leave on the other side."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 2, (40, 40), np.uint8), np.ones((3, 3), np.uint8))
    image[::12], image[:, ::12] = 1, 1
    exact = shapes(image, ShapeLimits(max_vertices=60))
    pieces = shapes(image, ShapeLimits(min_region_px=40, max_vertices=60))
    assert min(one.area_px for one in exact if one.part) < 40 <= min(one.area_px for one in pieces)
    assert all(one.polygon.is_valid for one in pieces)
    large = [(polygon_of(region.rings), 1) for region in traced(image, 8) if region.pixels >= 40]
    found = painted(image.shape, [(one.polygon, 1) for one in pieces])
    assert np.array_equal(found, painted(image.shape, large))


@given(labels(), st.integers(8, 40))
def test_a_region_is_known_by_its_first_pixel_whatever_its_outline(image: Labels, side: int) -> None:
    regions = traced(image, side)
    firsts = [region.first_xy for region in regions]
    assert len(set(firsts)) == len(firsts)
    assert all(image[y, x] == region.code for (x, y), region in zip(firsts, regions, strict=True))
