"""Simplified outlines still fit together, and move no farther than they may."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from tests.export.polygonize.traced import Labels, labels, painted, traced
from wsi_magnet.export.polygonize.polygons import ShapeLimits, polygon_of, shapes_of
from wsi_magnet.export.polygonize.simplify import Simplifier

tolerances = st.sampled_from([0.3, 0.8, 1.0, 2.0, 5.0])


def blobs(seed: int, classes: int = 4, shape: tuple[int, int] = (120, 150)) -> Labels:
    """Regions as smooth as those of a network, side by side, background among them."""
    rng = np.random.default_rng(seed)
    return np.asarray(np.argmax([gaussian_filter(rng.normal(size=shape), 4) for _ in range(classes)], axis=0), np.uint8)


def simplified(image: Labels, side_px: int, tolerance: float) -> list[tuple[shapely.Polygon, int]]:
    regions = traced(image, side_px, keep=Simplifier(tolerance))
    return [(polygon_of(region.rings), region.code) for region in regions]


@given(labels(), st.integers(2, 40), tolerances)
def test_simplified_polygons_do_not_overlap(image: Labels, side_px: int, tolerance: float) -> None:
    polygons = [shapely.make_valid(polygon) for polygon, _ in simplified(image, side_px, tolerance)]
    assert shapely.union_all(polygons).area == pytest.approx(sum(polygon.area for polygon in polygons))


@pytest.mark.slow
@given(st.integers(0, 50), st.sampled_from([16, 32, 64, 200]), tolerances)
@example(50, 32, 5.0)  # a corner of the image is cut
def test_neighbours_share_their_edges(seed: int, side_px: int, tolerance: float) -> None:
    """Without background, what one region loses another gains: they fill the image, but for its edge by the tolerance.

    Beyond the image all is background, towards which outlines are simplified like any others: a corner of the image may
    be cut by as much as the tolerance.
    """
    image = blobs(seed) + 1
    polygons = [polygon for polygon, _ in simplified(image, side_px, tolerance)]
    whole = shapely.union_all(polygons)
    assert whole.area == pytest.approx(sum(polygon.area for polygon in polygons))
    height, width = image.shape
    inner = shapely.box(tolerance, tolerance, width - tolerance, height - tolerance)
    assert inner.difference(whole).area == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@given(st.integers(0, 50), st.sampled_from([16, 32, 64, 200]), tolerances)
def test_simplified_polygons_of_smooth_regions_are_valid(seed: int, side_px: int, tolerance: float) -> None:
    polygons = [polygon for polygon, _ in simplified(blobs(seed), side_px, tolerance) if polygon.area > 0]
    assert all(polygon.is_valid for polygon in polygons)


@pytest.mark.slow
@given(st.integers(0, 50), st.sampled_from([16, 64, 200]), tolerances)
def test_pixels_change_only_near_the_exact_outlines(seed: int, side_px: int, tolerance: float) -> None:
    image = blobs(seed)
    exact = shapely.union_all([shapely.boundary(polygon_of(region.rings)) for region in traced(image)])
    y, x = np.nonzero(painted(image.shape, simplified(image, side_px, tolerance)) != image)
    assert (shapely.distance(exact, shapely.points(x + 0.5, y + 0.5)) <= tolerance + 1e-6).all()


def test_smooth_outlines_lose_most_of_their_points() -> None:
    image = blobs(3)
    exact, simple = (
        sum(int(shapely.get_num_coordinates(polygon)) for polygon, _ in polygons)
        for polygons in ([(polygon_of(r.rings), 0) for r in traced(image)], simplified(image, 512, 2.0))
    )
    assert simple < exact / 2


def test_a_tolerance_below_a_staircase_changes_nothing() -> None:
    image = blobs(1)
    assert np.array_equal(painted(image.shape, simplified(image, 64, 0.3)), image)


def test_holes_are_closed_by_their_exact_area() -> None:
    """A simplified hole may be smaller than the region in it, which would then lie under a closed hole."""
    image = np.ones((30, 30), np.uint8)
    image[10:20, 10:20] = 2
    image[10, 10] = 1
    regions = traced(image, keep=Simplifier(3.0))
    shapes = list(shapes_of(regions, ShapeLimits(99, 99)))
    assert sorted(len(shape.polygon.interiors) for shape in shapes) == [0, 1]
