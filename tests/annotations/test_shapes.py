"""Drawn regions: order, holes, what is refused, and reading far less than everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from tests.annotations.made import (
    ALL,
    CLASSES,
    GLAND,
    STROMA,
    feature,
    opened,
    read,
    scale_of,
    slide,
    square,
    write_geojson,
)
from wsi_magnet.annotations.coding import Coding
from wsi_magnet.annotations.shapes import Drawn, ShapeAnnotation
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box
from wsi_magnet.polygons import _crossings, edges_of, fill, region_of, surfaces
from wsi_magnet.scales import Scale

INFO = slide(40, 30)
WIDE = slide(60, 50)


def test_the_later_lies_on_top(tmp_path: Path) -> None:
    path = write_geojson(
        tmp_path / "a.geojson",
        feature([square(0, 0, 20, 20)], "stroma"),
        feature([square(10, 10, 30, 30)], "benign gland"),
    )
    expected = np.full((30, 40), ALL)
    expected[0:20, 0:20] = STROMA
    expected[10:30, 10:30] = GLAND
    assert np.array_equal(read(path, INFO), expected)


def test_what_is_ignored_hides_what_lies_below(tmp_path: Path) -> None:
    path = write_geojson(
        tmp_path / "a.geojson", feature([square(0, 0, 40, 30)]), feature([square(5, 5, 9, 9)], "artefact")
    )
    assert (read(path, INFO, "artefact=ignore")[5:9, 5:9] == ALL).all()


def test_holes_are_not_labelled(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.geojson", feature([square(0, 0, 40, 30), square(10, 10, 20, 20)]))
    expected = np.full((30, 40), STROMA)
    expected[10:20, 10:20] = ALL
    assert np.array_equal(read(path, INFO), expected)


def test_a_contour_that_crosses_itself_gives_both_lobes(tmp_path: Path) -> None:
    bow = [[0, 0], [20, 20], [20, 0], [0, 20], [0, 0]]
    sets = read(write_geojson(tmp_path / "a.geojson", feature([bow])), INFO)
    assert [int(sets[10, x]) for x in (2, 17)] + [int(sets[2, 10])] == [STROMA, STROMA, ALL]


def test_beyond_the_canvas_nothing_is_labelled(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.geojson", feature([square(-50, -50, 90, 90)]))
    scale = scale_of(INFO, 3.0)  # 14 x 10 pixels: the last column's centres lie at 40.5
    sets = opened(path, INFO).read(scale, Box(-1, -1, 15, 11))
    expected = np.full((12, 16), ALL)
    expected[1:11, 1:14] = STROMA
    assert np.array_equal(sets, expected)


drawn_squares = st.lists(
    st.tuples(*[st.floats(-5, 45)] * 2, *[st.floats(0.1, 20)] * 2, st.sampled_from(["stroma", "benign gland"])),
    min_size=1,
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(squares=drawn_squares, downsample=st.floats(0.8, 5.0), corner=st.tuples(*[st.integers(-3, 30)] * 2))
def test_any_read_is_the_same_part_of_a_read_of_all(
    squares: list[tuple[float, float, float, float, str]], downsample: float, corner: tuple[int, int]
) -> None:
    drawn = [Drawn("in view", "stroma", region_of(np.array(square(0, 0, 40, 30))))]
    drawn += [Drawn("one", label, region_of(np.array(square(x, y, x + w, y + h)))) for x, y, w, h, label in squares]
    annotation = ShapeAnnotation(drawn, INFO.canvas, Coding.parse("", CLASSES))
    scale = scale_of(INFO, downsample)
    whole, box = Box(-3, -3, 60, 60), Box(*corner, corner[0] + 11, corner[1] + 7)
    part = annotation.read(scale, whole)[box.relative_to(whole).slices_yx]
    assert np.array_equal(annotation.read(scale, box), part)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0, 0], [5, 5], [0, 0]], "2 different points"),
        ([[0, 0], [5, float("nan")], [9, 9], [0, 0]], "not finite"),
        ([[0, 0], [5, 1e300], [9, 9], [0, 0]], "beyond"),
        ([[0, 0], ["a", 1], [9, 9], [0, 0]], "not a list of points"),
        ([[0], [1], [2]], "not a list of points"),
        (7, "not a list of points"),
    ],
)
def test_contours_that_are_none_are_refused(tmp_path: Path, points: object, message: str) -> None:
    path = write_geojson(tmp_path / "a.geojson", feature([square(0, 0, 9, 9)]), feature([points]))
    with pytest.raises(AnnotationError, match=rf"a\.geojson: object 2 'stroma'.*{message}"):
        opened(path, INFO)


def test_a_label_that_nobody_knows_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.geojson", feature([square(0, 0, 9, 9)], "Tumour?"))
    with pytest.raises(AnnotationError, match=r"object 1 'Tumour\?': unknown label 'Tumour\?'.*labels column"):
        opened(path, INFO)


def test_regions_of_another_slide_are_refused(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.geojson", feature([square(1000, 0, 1009, 9)]))
    with pytest.raises(AnnotationError, match="lies on the slide's 40 x 30 pixels"):
        opened(path, INFO)


def test_no_region_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="has no region"):
        opened(write_geojson(tmp_path / "a.geojson"), INFO)


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


@given(outer=rings, inner=rings, downsample=DOWNSAMPLES)
def test_a_pixel_is_inside_where_its_centre_is(
    outer: list[tuple[float, float]], inner: list[tuple[float, float]], downsample: float
) -> None:
    region = region_with_hole(outer, inner)
    scale = scale_of(WIDE, downsample)
    x, y = centres(scale, scale.grid)
    clear = shapely.distance(region.boundary, shapely.points(x, y)) > 1e-6
    assume(not region.is_empty)
    inside = fill(edges_of(region), scale, scale.grid)
    assert np.array_equal(inside[clear], shapely.contains_xy(region, x, y)[clear])


@given(outer=rings, inner=rings, downsample=DOWNSAMPLES, box=boxes)
def test_any_rectangle_is_the_same_part_of_the_whole(
    outer: list[tuple[float, float]], inner: list[tuple[float, float]], downsample: float, box: Box
) -> None:
    edges = edges_of(region_with_hole(outer, inner))
    scale = scale_of(WIDE, downsample)
    whole = Box(-5, -5, 60, 60)
    part = fill(edges, scale, whole)[box.relative_to(whole).slices_yx]
    assert np.array_equal(fill(edges, scale, box), part)


@given(middle=st.integers(0, 12), downsample=st.sampled_from([1.0, 2.0, 0.5, 1.978]))
def test_neighbours_share_no_pixel_and_leave_no_gap(middle: int, downsample: float) -> None:
    # Corners on whole and half pixels, where centres fall exactly on the common edge.
    scale = scale_of(WIDE, downsample)
    x = middle + 0.5
    left = shapely.Polygon([(0, 0), (x, 0), (x + 3, 20), (0, 20)])
    right = shapely.Polygon([(x, 0), (40, 0), (40, 20), (x + 3, 20)])
    both = shapely.box(0, 0, 40, 20)
    total = sum(fill(edges_of(region), scale, scale.grid).astype(int) for region in (left, right))
    assert np.array_equal(total, fill(edges_of(both), scale, scale.grid).astype(int))


@pytest.mark.parametrize("empty", [shapely.Polygon(), surfaces(shapely.LineString([(0, 0), (9, 9)]))])
def test_nothing_fills_nothing(empty: BaseGeometry) -> None:
    scale = scale_of(WIDE)
    assert not fill(edges_of(empty), scale, scale.grid).any()


def star_of_chords(chords: int) -> list[list[float]]:
    """A contour whose edges nearly all cross each other."""
    angles = np.arange(chords) * (np.pi * (chords // 2 * 2 - 1) / chords)
    points = 500 + 400 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return [*points.tolist(), points[0].tolist()]


def test_a_contour_of_many_crossings_is_refused_at_once() -> None:
    assert region_of(np.array(star_of_chords(31))).area > 0
    with pytest.raises(AnnotationError, match=r"object 3: its contour crosses itself more than 10,000 times"):
        region_of(np.array(star_of_chords(601)), what="object 3")


def test_crossings_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    bow = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    comb = shapely.Polygon([(0, 0), (0, 5), (30, 5), (30, 0), (25, 10), (20, 0), (15, 10), (10, 0), (5, 10)])
    for size in (1, 3, 256):
        monkeypatch.setattr("wsi_magnet.polygons._AT_ONCE", size)
        assert _crossings(bow) == 1
        assert _crossings(comb) == 6
