"""QuPath's GeoJSON in all the forms in which it was ever written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.annotations.made import ALL, GLEASON_3, STROMA, feature, opened, read, slide, square, write_geojson
from wsi_magnet.annotations.geojson import features_of, parse_json
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box

INFO = slide(30, 20)
ONE = feature([square(2, 3, 12, 13)])


def labels(document: object) -> list[str]:
    return [drawn.label for drawn in features_of(document)]


@pytest.mark.parametrize(
    "document",
    [
        ONE,
        [ONE],
        {"type": "FeatureCollection", "features": [ONE]},
        [{"type": "FeatureCollection", "features": [ONE]}],
        {"type": "Feature", "geometry": None, "properties": {}, "features": [ONE]},
    ],
    ids=["one", "list", "collection", "nested", "children"],
)
def test_every_wrapping_holds_the_same_region(tmp_path: Path, document: object) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    expected = np.full((20, 30), ALL)
    expected[3:13, 2:12] = STROMA
    assert np.array_equal(read(path, INFO), expected)


def test_packed_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(ONE).encode()))
    assert (read(path, INFO) == STROMA).sum() == 100


@pytest.mark.parametrize(
    ("properties", "label"),
    [
        ({"classification": {"name": "Tumor", "colorRGB": -3670016}}, "Tumor"),
        ({"classification": {"names": ["Tumor", "Gleason 3"], "color": [1, 2, 3]}}, "Tumor: Gleason 3"),
        ({"classification": "Tumor"}, "Tumor"),
        ({"classification": None, "name": "ROI 1"}, "ROI 1"),
        ({"isLocked": False}, "unclassified"),
    ],
)
def test_the_class_is_found_as_each_version_writes_it(properties: dict[str, Any], label: str) -> None:
    assert labels(feature([square(0, 0, 9, 9)], None, **properties)) == [label]


def test_a_derived_class_is_its_last_name(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.geojson", feature([square(0, 0, 9, 9)], "Tumor: Gleason 3"))
    assert read(path, INFO)[4, 4] == GLEASON_3


@pytest.mark.parametrize("kind", ["cell", "detection", "tile", "tma_core", "root"])
def test_only_annotations_are_regions(kind: str) -> None:
    assert labels([ONE, feature([square(0, 0, 9, 9)], "Tumor", objectType=kind)]) == ["stroma"]


def test_old_files_name_the_kind_in_the_id() -> None:
    old = [{**ONE, "id": name} for name in ("PathAnnotationObject", "PathCellObject", "TMACoreObject")]
    assert len(labels(old)) == 1


def test_several_polygons_are_one_region(tmp_path: Path) -> None:
    several = {"type": "MultiPolygon", "coordinates": [[square(0, 0, 4, 4)], [square(8, 0, 12, 4)]]}
    collection = {"type": "GeometryCollection", "geometries": [several, {"type": "Point", "coordinates": [1, 1]}]}
    sets = read(write_geojson(tmp_path / "a.geojson", feature(collection)), INFO)
    assert [int(x) for x in np.flatnonzero(sets[2] == STROMA)] == [0, 1, 2, 3, 8, 9, 10, 11]


@pytest.mark.parametrize("kind", ["Point", "MultiPoint", "LineString", "MultiLineString"])
def test_points_and_lines_without_a_class_are_no_regions(kind: str) -> None:
    assert labels(feature({"type": kind, "coordinates": []}, None)) == []


def test_points_with_a_class_are_no_regions_either() -> None:
    assert labels(feature({"type": "MultiPoint", "coordinates": [[1, 2]]}, "Tumor")) == []


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "LineString", "coordinates": [[0, 0], [9, 0], [9, 9]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9]]]},
        {"type": "Polygon", "coordinates": [square(0, 0, 9, 9), square(2, 2, 5, 5)[:-1]]},
    ],
    ids=["line", "ring", "hole"],
)
def test_an_unclosed_contour_is_refused(geometry: dict[str, Any]) -> None:
    with pytest.raises(AnnotationError, match="object 2 'Tumor': unclosed contour"):
        labels([ONE, feature(geometry, "Tumor")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "FeatureCollection", "features": [', "not JSON, or truncated"),
        ('{"shapes": []}', "not GeoJSON"),
        ("[1, 2]", "not GeoJSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"type": "Feature", "geometry": {"type": "Circle"}}', "unknown geometry 'Circle'"),
        ('{"type": "Feature", "geometry": {"type": "Polygon"}}', "no coordinates"),
        ('{"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": 3}}', "no coordinates"),
    ],
)
def test_what_is_no_annotation_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=rf"a\.geojson: .*{message}"):
        opened(path, INFO)


def test_coordinates_count_from_the_canvas(tmp_path: Path) -> None:
    info = slide(50, 50, bounds=Box(10, 20, 40, 40))
    assert np.array_equal(read(write_geojson(tmp_path / "a.json", ONE), info) == STROMA, _square_in(30, 20))


def _square_in(width: int, height: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    there = np.zeros((height, width), bool)
    there[3:13, 2:12] = True
    return there


@pytest.mark.parametrize("name", ["brush", "ellipse", "polygon", "rectangle", "wand"])
def test_qupaths_own_regions_fill_their_area(test_data: Path, name: str) -> None:
    path = test_data / "annotations" / "qupath_geojson" / f"qupath-{name}.json"
    area = features_of(parse_json(path.read_bytes()))[0].region.area
    sets = read(path, slide(28_000, 16_000), "*=stroma", downsample=4.0)
    assert (sets == STROMA).sum() * 16 == pytest.approx(area, rel=0.02)
