"""JSON of HistomicsUI and the Digital Slide Archive: regions in level-0 pixels.

A file holds an annotation, or a list of them as the server exports it. Closed polylines, rectangles, ellipses and
circles are regions; an element's group is its class, or else its label. Points, arrows, grids and images are not
regions, and neither is an open polyline without a class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import cos, sin
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.annotations.geojson import text_of
from wsi_magnet.annotations.shapes import UNCLASSIFIED, Drawn, check_pixels, checked_ring
from wsi_magnet.errors import AnnotationError
from wsi_magnet.polygons import Ring, region_of

_OTHERS = ("point", "arrow", "rectanglegrid", "heatmap", "griddata", "image", "pixelmap")

_NO_CLASS = "default"
"""HistomicsUI's group of elements to which nobody has given one."""


def is_dsa(values: Any) -> bool:
    """True for the contents of such a file."""
    first = values[0] if isinstance(values, list) and values else values
    return isinstance(first, dict) and ("annotation" in first or "elements" in first) and "type" not in first


def parse_dsa(values: Any) -> list[Drawn]:
    """The regions of a file's contents, in its order. Raises AnnotationError, naming the element."""
    documents = values if isinstance(values, list) else [values]
    return [drawn for one in documents for drawn in _document(one)]


def _document(values: Any) -> Iterator[Drawn]:
    annotation = values.get("annotation", values) if isinstance(values, dict) else None
    elements = annotation.get("elements") if isinstance(annotation, dict) else None
    if not isinstance(elements, list):
        raise AnnotationError("it has an annotation of HistomicsUI without a list of elements")
    for number, element in enumerate(elements, 1):
        if not isinstance(element, dict):
            raise AnnotationError(f"element {number} is no object of HistomicsUI")
        yield from _element(element, number)


def _element(element: Mapping[str, Any], number: int) -> Iterator[Drawn]:
    kind, name, group = element.get("type"), _label(element), text_of(element.get("group"))
    group = "" if group.lower() == _NO_CLASS else group
    label = group or name or UNCLASSIFIED
    what = f"element {number} {label!r}"
    if kind == "polyline":
        if element.get("closed"):
            rings = [element.get("points"), *(element.get("holes") or [])]
            shell, *holes = (checked_ring(points, what) for points in rings)
            yield Drawn(what, label, region_of(shell, holes, what), name)
        elif group:
            raise AnnotationError(f"{what}: unclosed contour; close it in HistomicsUI, or remove its group")
    elif kind in ("rectangle", "ellipse", "circle"):
        yield Drawn(what, label, _placed_outline(element, str(kind), what), name)
    elif kind not in _OTHERS:
        raise AnnotationError(f"{what}: unknown type {kind!r}")


def _placed_outline(element: Mapping[str, Any], kind: str, what: str) -> BaseGeometry:
    try:
        x, y = (float(one) for one in element["center"][:2])
        if kind == "circle":
            width = height = 2 * float(element["radius"])
        else:
            width, height = float(element["width"]), float(element["height"])
        angle = float(element.get("rotation") or 0.0)
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(f"{what}: a {kind} without numbers for its centre and size") from error
    turn = np.array(((cos(angle), -sin(angle)), (sin(angle), cos(angle))))
    size, centre = np.array((width / 2, height / 2)), np.array((x, y))
    corners = np.array(((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)))
    ring: Ring = corners if kind == "rectangle" else shapely.get_coordinates(shapely.Point(0, 0).buffer(1, 90))
    placed = (ring * size) @ turn.T + centre
    check_pixels(placed, what)
    if not width > 0 or not height > 0:
        raise AnnotationError(f"{what}: a {kind} of {width:g} x {height:g} pixels encloses nothing")
    return region_of(placed, what=what)


def _label(element: Mapping[str, Any]) -> str:
    label = element.get("label")
    return text_of(label.get("value")) if isinstance(label, dict) else text_of(label)
