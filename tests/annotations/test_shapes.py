"""Drawn regions: order, holes, what is refused, and reading far less than everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from wsi_magnet.annotations.shapes import Drawn, ShapeAnnotation, region_of
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box

INFO = slide(40, 30)


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


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        ([[0, 0], ["a", 1], [9, 9], [0, 0]], "no list of points"),
        ([[0], [1], [2]], "no list of points"),
        (7, "no list of points"),
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
    with pytest.raises(AnnotationError, match="holds no region"):
        opened(write_geojson(tmp_path / "a.geojson"), INFO)
