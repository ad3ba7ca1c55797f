"""What QuPath 0.5.1, 0.6 and 0.7 were seen to refuse, or to read as something else, as rules for a file."""

from __future__ import annotations

import gzip
import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import shape

TYPES = {"annotation", "detection", "tile", "cell", "tmaCore"}
MOST_VERTICES = 5000


def features_of(path: Path) -> list[dict[str, Any]]:
    """The features of an exported file, as QuPath unpacks it."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    collection = json.loads(data, parse_constant=_refuse)
    assert collection["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = collection["features"]
    return features


def _refuse(token: str) -> None:
    raise AssertionError(f"{token} is no JSON")


def violations(path: Path) -> list[str]:
    """A line for each thing that a version of QuPath would refuse or misread."""
    found = [] if path.name.endswith((".geojson", ".json", ".geojson.gz", ".json.gz")) else ["suffix is not read"]
    ids = set()
    for number, feature in enumerate(features_of(path)):
        found += [f"feature {number}: {text}" for text in (*_fields(feature), *_geometry(feature.get("geometry")))]
        if "id" in feature:
            if feature["id"] in ids:
                found.append(f"feature {number}: id stands there twice")
            ids.add(feature["id"])
    return found


def _fields(feature: dict[str, Any]) -> Iterator[str]:
    if feature.get("type") != "Feature":
        yield "is no Feature"
    if "id" in feature and str(uuid.UUID(feature["id"])) != feature["id"]:
        yield "id is no UUID"
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        yield "properties are null"
        return
    if properties.get("objectType") not in TYPES:
        yield f"objectType {properties.get('objectType')!r}"
    if any(key in feature for key in ("objectType", "name", "classification", "measurements")):
        yield "a property stands outside properties"
    if "name" in properties and not isinstance(properties["name"], str):
        yield "name is no text"
    yield from _classification(properties.get("classification"))
    for name, value in properties.get("measurements", {}).items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            yield f"measurement {name} is {value!r}"
        if name in ("Area µm^2", "Area px^2", "Perimeter µm"):
            yield f"{name} is one that QuPath computes itself"
        if "\u03bc" in name:
            yield f"{name} has a Greek mu where QuPath has the micro sign"
    if not all(isinstance(text, str) for text in properties.get("metadata", {}).values()):
        yield "metadata is not text"


def _classification(value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield "classification is no object"
        return
    names = value.get("names", [value.get("name")])
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        yield f"class name {names!r}"
    elif any(":" in name for name in names):
        yield "a colon in a class's name"
    color = value.get("color")
    if not (isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)):
        yield f"colour {color!r}"


def _geometry(geometry: Any) -> Iterator[str]:
    if not isinstance(geometry, dict) or geometry.get("type") != "Polygon":
        yield "geometry is no Polygon"
        return
    if set(geometry) - {"type", "coordinates", "plane"} or geometry.get("isEllipse"):
        yield "geometry has fields that QuPath misreads"
    for ring in geometry["coordinates"]:
        if ring[0] != ring[-1] or len(ring) < 4:
            yield "a ring is not closed"
        if any(abs(v * 100 - round(v * 100)) > 1e-6 for point in ring for v in point):
            yield "a point is not on the grid of 0.01"
    if sum(len(ring) - 1 for ring in geometry["coordinates"]) > MOST_VERTICES:
        yield "too many vertices"
    polygon = shape(geometry)
    # 0.6 and 0.7 put every point on that grid while importing, and refuse the file if that makes a polygon invalid.
    reduced = shapely.set_precision(polygon, 0.01, mode="pointwise")
    if not polygon.is_valid or not reduced.is_valid:
        yield f"invalid: {shapely.is_valid_reason(polygon)}"
    if polygon.area <= 0:
        yield "has no area"
