"""Aperio ImageScope's XML: layers of regions, in level-0 pixels.

The class of a region is the name of its layer; without one the layer's description, the region's text, or the region's
description. A negative region is a hole in all regions of its layer. Freehand contours must come back to where they
began.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.annotations.safe_xml import open_by, point_of
from wsi_magnet.annotations.shapes import UNCLASSIFIED, Drawn, Ring, check_pixels, checked_ring, region_of, surfaces
from wsi_magnet.errors import AnnotationError

ROOT = "Annotations"

MOST_OPEN = 0.05
"""A contour whose ends lie farther apart, as a share of its length, was not closed, unless the edge that is missing is
no longer than the longest that is there: a polygon whose last corner need not be its first."""

_KINDS = {"0": "polygon", "1": "rectangle", "2": "ellipse", "3": "arrow", "4": "ruler", "5": "pointer"}
"""Of a region's Type. Where a program also writes GeoShape, that is what it means."""

_NO_REGIONS = ("arrow", "ruler", "pointer", "points", "point", "line", "polyline")


def parse_imagescope(root: Element) -> list[Drawn]:
    """The regions of a document, in its order, less their holes. Raises AnnotationError, naming the region."""
    return [drawn for layer in root.iter("Annotation") for drawn in _layer(layer)]


def _layer(layer: Element) -> Iterator[Drawn]:
    drawn = [(region, one) for region in layer.iter("Region") for one in _drawn(region, layer)]
    holes = [one.region for region, one in drawn if _is_hole(region)]
    for region, one in drawn:
        if not _is_hole(region):
            left = surfaces(one.region.difference(shapely.union_all(holes))) if holes else one.region
            yield Drawn(one.what, one.label, left)


def _is_hole(region: Element) -> bool:
    return region.get("NegativeROA", "0") == "1"


def _drawn(region: Element, layer: Element) -> Iterator[Drawn]:
    label = _label(region, layer)
    what = f"region {region.get('Id', '?')} {label!r}"
    kind = (region.get("GeoShape") or _KINDS.get(region.get("Type", "0"), "")).lower()
    points = [point_of(vertex.attrib, what) for vertex in region.iter("Vertex")]
    if kind == "ellipse":
        yield Drawn(what, label, _ellipse(_corners(points, what)))
    elif kind == "rectangle":
        yield Drawn(what, label, region_of(checked_ring(points if len(points) > 2 else _corners(points, what), what)))
    elif kind in ("polygon", "freehand"):
        yield Drawn(what, label, region_of(_closed(checked_ring(points, what), what)))
    elif kind not in _NO_REGIONS:
        raise AnnotationError(f"{what}: unknown type {region.get('GeoShape') or region.get('Type')!r}")


def _label(region: Element, layer: Element) -> str:
    names = (layer.get("Name"), _description(layer), region.get("Text"), _description(region))
    return next((name.strip() for name in names if name and name.strip()), UNCLASSIFIED)


def _description(element: Element) -> str:
    found = [
        one.get("Value", "") for one in element.findall("Attributes/Attribute") if one.get("Name") == "Description"
    ]
    return found[0] if found else ""


def _closed(ring: Ring, what: str) -> Ring:
    of_length, of_longest = open_by(ring)
    if of_length > MOST_OPEN and of_longest > 1:
        raise AnnotationError(
            f"{what}: unclosed contour, its ends {of_length:.0%} of its length apart; close it in ImageScope"
        )
    return ring


def _corners(points: list[tuple[float, float]], what: str) -> list[tuple[float, float]]:
    """The corners of the box round some points: ImageScope gives two or four of an ellipse's, or of a rectangle's."""
    if len(points) < 2:
        raise AnnotationError(f"{what}: has {len(points)} points; a rectangle or an ellipse needs 2")
    check_pixels(np.array(points, np.float64), what)
    xs, ys = zip(*points, strict=True)
    return [(min(xs), min(ys)), (max(xs), min(ys)), (max(xs), max(ys)), (min(xs), max(ys))]


def _ellipse(corners: list[tuple[float, float]]) -> BaseGeometry:
    (x0, y0), _, (x1, y1), _ = corners
    circle = shapely.Point(0, 0).buffer(1, quad_segs=90)
    middle, radii = ((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 2, (y1 - y0) / 2)
    return shapely.transform(circle, lambda points: points * radii + middle)
