"""QuPath's GeoJSON: annotation objects and their classes, in pixels of the canvas.

Only annotations are regions. Objects that programs detected (cells, detections, tiles, TMA cores) are skipped, and so
are points and lines without a class; a line with a class is an unclosed contour, and refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.annotations.shapes import UNCLASSIFIED, Drawn, checked_ring
from wsi_magnet.errors import AnnotationError
from wsi_magnet.polygons import Ring, region_of

_TOO_DEEP = "its JSON is nested too deeply for an annotation"

_POINTS = ("Point", "MultiPoint")
_LINES = ("LineString", "MultiLineString")
_SURFACES = ("Polygon", "MultiPolygon")
_ANNOTATIONS = ("annotation", "PathAnnotationObject")
"""QuPath's names of annotations, in "objectType" since 0.3 and in "id" before."""


def parse_json(data: bytes) -> Any:
    """The values of a JSON file. Raises AnnotationError for anything else."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise AnnotationError(_TOO_DEEP) from error
    except ValueError as error:
        raise AnnotationError(f"it is not JSON, or truncated: {error}") from error


def features_of(values: Any) -> list[Drawn]:
    """The regions of a FeatureCollection, a list of features, or a single one, in the file's order.

    Raises AnnotationError, naming the object, for a file that is not GeoJSON and for contours that enclose no region.
    """
    try:
        features = list(_features(values))
        drawn = [_drawn(feature, number) for number, feature in enumerate(features, 1) if _is_annotation(feature)]
    except RecursionError as error:
        raise AnnotationError(_TOO_DEEP) from error
    return [one for one in drawn if one is not None]


def _features(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, list):
        for one in node:
            yield from _features(one)
        return
    kind = node.get("type") if isinstance(node, dict) else None
    if kind == "FeatureCollection":
        yield from _features(node.get("features") or [])
    elif kind == "Feature":
        yield node
        yield from _features(node.get("features") or [])
    elif kind in (*_POINTS, *_LINES, *_SURFACES, "GeometryCollection"):
        yield {"geometry": node}
    else:
        raise AnnotationError("it is not GeoJSON: it has an element that is neither a Feature nor a FeatureCollection")


def _is_annotation(feature: Mapping[str, Any]) -> bool:
    properties = _mapping(feature.get("properties"))
    kind = properties.get("objectType") or properties.get("object_type")
    if kind is None:
        identity = str(feature.get("id", ""))
        kind = identity if identity.startswith("Path") or identity == "TMACoreObject" else "annotation"
    return kind in _ANNOTATIONS


def _drawn(feature: Mapping[str, Any], number: int) -> Drawn | None:
    properties = _mapping(feature.get("properties"))
    class_name = _class_name(properties.get("classification"))
    name = text_of(properties.get("name"))
    label = class_name or name or UNCLASSIFIED
    what = f"object {number} {label!r}"
    geometry = feature.get("geometry")
    parts = [] if geometry is None else list(_regions(geometry, what, is_region=bool(class_name)))
    if not parts:
        return None
    return Drawn(what, label, parts[0] if len(parts) == 1 else shapely.union_all(parts), name)


def _class_name(classification: Any) -> str:
    """Name in QuPath's {"name": ...} or, for derived classes, {"names": [...]}, or the bare name of other programs."""
    if isinstance(classification, dict):
        names = classification.get("names")
        return text_of(classification.get("name")) or (": ".join(map(str, names)) if isinstance(names, list) else "")
    return text_of(classification)


def _regions(geometry: Any, what: str, *, is_region: bool) -> Iterator[BaseGeometry]:
    """Polygons of a geometry. is_region: the object has a class, so a line is an unclosed contour."""
    kind = _mapping(geometry).get("type")
    if kind == "GeometryCollection":
        for one in _list(geometry.get("geometries"), what):
            yield from _regions(one, what, is_region=is_region)
    elif kind == "Polygon":
        yield _polygon(geometry.get("coordinates"), what)
    elif kind == "MultiPolygon":
        for one in _list(geometry.get("coordinates"), what):
            yield _polygon(one, what)
    elif kind in _LINES and is_region:
        raise AnnotationError(f"{what}: unclosed contour (a {kind}); close it in QuPath, or remove its class")
    elif kind not in (*_POINTS, *_LINES):
        raise AnnotationError(f"{what}: unknown geometry {kind!r}")


def _polygon(rings: Any, what: str) -> BaseGeometry:
    shell, *holes = (_closed(points, what) for points in _list(rings, what))
    return region_of(shell, holes, what)


def _closed(points: Any, what: str) -> Ring:
    ring = checked_ring(points, what)
    if (ring[0] != ring[-1]).any():
        ends = " and ".join(f"({x:g}, {y:g})" for x, y in (ring[0], ring[-1]))
        raise AnnotationError(f"{what}: unclosed contour, from {ends}; its last point must be its first")
    return ring


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise AnnotationError(f"{what}: its geometry has no coordinates")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def text_of(value: Any) -> str:
    """A text without blanks round it; "" for anything else."""
    return value.strip() if isinstance(value, str) else ""
