"""Filling contours: against asking for every pixel's centre, and that any rectangle is a part of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from tests.annotations.made import scale_of, slide
from wsi_magnet.annotations.raster import edges_of, fill
from wsi_magnet.annotations.shapes import region_of, surfaces
from wsi_magnet.geometry import Box
from wsi_magnet.scales import Scale

INFO = slide(60, 50)
Floats = npt.NDArray[np.floating[Any]]

DOWNSAMPLES = st.floats(0.7, 6.0)

coordinates = st.floats(-10, 70, allow_nan=False, width=32)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9)
boxes = st.tuples(*[st.integers(-5, 60)] * 4).map(lambda t: Box(min(t[::2]), min(t[1::2]), max(t[::2]), max(t[1::2])))


def centres(scale: Scale, box: Box) -> tuple[Floats, Floats]:
    dx, dy = scale.downsample_xy
    return np.meshgrid((np.arange(box.x0, box.x1) + 0.5) * dx, (np.arange(box.y0, box.y1) + 0.5) * dy)


def region_with_hole(outer: list[tuple[float, float]], inner: list[tuple[float, float]]) -> BaseGeometry:
    whole, hole = (region_of(np.array(ring, np.float64)) for ring in (outer, inner))
    return surfaces(whole.difference(hole))


@settings(max_examples=150, deadline=None)
@given(outer=rings, inner=rings, downsample=DOWNSAMPLES)
def test_a_pixel_is_inside_where_its_centre_is(
    outer: list[tuple[float, float]], inner: list[tuple[float, float]], downsample: float
) -> None:
    region = region_with_hole(outer, inner)
    scale = scale_of(INFO, downsample)
    x, y = centres(scale, scale.grid)
    clear = shapely.distance(region.boundary, shapely.points(x, y)) > 1e-6
    assume(not region.is_empty)
    inside = fill(edges_of(region), scale, scale.grid)
    assert np.array_equal(inside[clear], shapely.contains_xy(region, x, y)[clear])


@settings(max_examples=150, deadline=None)
@given(outer=rings, inner=rings, downsample=DOWNSAMPLES, box=boxes)
def test_any_rectangle_is_the_same_part_of_the_whole(
    outer: list[tuple[float, float]], inner: list[tuple[float, float]], downsample: float, box: Box
) -> None:
    edges = edges_of(region_with_hole(outer, inner))
    scale = scale_of(INFO, downsample)
    whole = Box(-5, -5, 60, 60)
    part = fill(edges, scale, whole)[box.relative_to(whole).slices_yx]
    assert np.array_equal(fill(edges, scale, box), part)


@settings(max_examples=50, deadline=None)
@given(middle=st.integers(0, 12), downsample=st.sampled_from([1.0, 2.0, 0.5, 1.978]))
def test_neighbours_share_no_pixel_and_leave_no_gap(middle: int, downsample: float) -> None:
    # Corners on whole and half pixels, where centres fall exactly on the common edge.
    scale = scale_of(INFO, downsample)
    x = middle + 0.5
    left = shapely.Polygon([(0, 0), (x, 0), (x + 3, 20), (0, 20)])
    right = shapely.Polygon([(x, 0), (40, 0), (40, 20), (x + 3, 20)])
    both = shapely.box(0, 0, 40, 20)
    total = sum(fill(edges_of(region), scale, scale.grid).astype(int) for region in (left, right))
    assert np.array_equal(total, fill(edges_of(both), scale, scale.grid).astype(int))


@pytest.mark.parametrize("empty", [shapely.Polygon(), surfaces(shapely.LineString([(0, 0), (9, 9)]))])
def test_nothing_fills_nothing(empty: BaseGeometry) -> None:
    scale = scale_of(INFO)
    assert not fill(edges_of(empty), scale, scale.grid).any()
