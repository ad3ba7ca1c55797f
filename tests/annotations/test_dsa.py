"""HistomicsUI's JSON: the kinds of elements, their classes, and what is refused."""

from __future__ import annotations

import json
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.annotations.made import ALL, GLAND, STROMA, read, slide, square
from wsi_magnet.annotations.dsa import parse_dsa
from wsi_magnet.annotations.registry import read_drawn
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box

INFO = slide(40, 30)


def polyline(points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"type": "polyline", "points": [[x, y, 0] for x, y in points[:-1]], "closed": True, **more}


def write(path: Path, *elements: Any) -> Path:
    path.write_text(json.dumps([{"_id": "1", "annotation": {"name": "drawn", "elements": list(elements)}}]))
    return path


def test_groups_are_classes_and_holes_are_left_out(tmp_path: Path) -> None:
    hole = [[x, y, 0] for x, y in square(4, 4, 8, 8)]
    path = write(
        tmp_path / "a.json",
        polyline(square(0, 0, 20, 20), group="stroma", holes=[hole]),
        polyline(square(30, 0, 40, 30), group="default", label={"value": "benign gland"}),
        {"type": "point", "center": [1, 1, 0]},
        {"type": "polyline", "points": [[0, 0, 0], [9, 9, 0]], "closed": False},
    )
    expected = np.full((30, 40), ALL)
    expected[:20, :20] = STROMA
    expected[4:8, 4:8] = ALL
    expected[:, 30:] = GLAND
    assert (read(path, INFO) == expected).all()


def test_one_annotation_without_a_list_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"elements": [polyline(square(0, 0, 40, 30), group="stroma")]}))
    assert (read(path, INFO) == STROMA).all()


def test_coordinates_are_of_level_0_and_not_of_the_bounds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", polyline(square(10, 10, 20, 20), label={"value": "A"}))
    drawn = read_drawn(path, slide(40, 30, bounds=Box(5, 8, 40, 30)))
    assert drawn[0].region.bounds == (5, 2, 15, 12)
    assert drawn[0].name == "A"


@pytest.mark.parametrize(
    ("element", "area", "bounds"),
    [
        ({"type": "rectangle", "width": 8, "height": 4}, 32, (16, 13, 24, 17)),
        ({"type": "rectangle", "width": 8, "height": 4, "rotation": pi / 2}, 32, (18, 11, 22, 19)),
        ({"type": "ellipse", "width": 8, "height": 4}, pi * 8, (16, 13, 24, 17)),
        ({"type": "circle", "radius": 3}, pi * 9, (17, 12, 23, 18)),
    ],
)
def test_rectangles_and_ellipses(element: dict[str, Any], area: float, bounds: tuple[float, ...]) -> None:
    (found,) = parse_dsa({"elements": [{**element, "center": [20, 15, 0], "group": "Tumor"}]})
    assert found.region.area == pytest.approx(area, rel=1e-3)
    assert found.region.bounds == pytest.approx(bounds)
    assert found.label == "Tumor"


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ([{"type": "polyline", "points": [[0, 0, 0], [9, 9, 0]], "group": "a"}], "element 1 'a': unclosed contour"),
        ([{"type": "polyline", "points": [[0, 0], [1, 1]], "closed": True}], "has 2 different points"),
        ([{"type": "polyline", "closed": True}], "its contour is not a list of points"),
        ([{"type": "rectangle", "center": [1, 2], "width": "x", "height": 1}], "a rectangle without numbers"),
        ([{"type": "circle", "center": [1, 2, 0], "radius": 0}], "a circle of 0 x 0 pixels encloses nothing"),
        ([{"type": "circle", "center": [1, 2, 0], "radius": 1e300}], "has a point that is not a pixel"),
        ([{"type": "cube"}], "unknown type 'cube'"),
        ([7], "element 1 is no object of HistomicsUI"),
    ],
)
def test_bad_elements_are_refused(tmp_path: Path, elements: list[Any], words: str) -> None:
    with pytest.raises(AnnotationError, match=rf"a\.json: {words}" if words.startswith("element") else words):
        read_drawn(write(tmp_path / "a.json", *elements), INFO)


def test_an_annotation_without_elements_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"annotation": {"name": "x"}}')
    with pytest.raises(AnnotationError, match="without a list of elements"):
        read_drawn(tmp_path / "a.json", INFO)
