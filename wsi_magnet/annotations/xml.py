"""ASAP's and Aperio ImageScope's XML: regions in level-0 pixels.

ASAP: polygons, splines and rectangles in groups. The group is the class; without one ("None") the class is the
annotation's own name, unless ASAP generated it. Contours are closed automatically. A spline is read as the polygon
through its points. Dots, point sets and measurements are not regions.

ImageScope: layers of regions. A region's class is its layer's name; without one the layer's description, the region's
text, or the region's description. A negative region is a hole in all regions of its layer. The end of a freehand
contour must meet its start.

Files are untrusted: a document type, and with it every entity, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.annotations.shapes import UNCLASSIFIED, Drawn, check_pixels, checked_ring
from wsi_magnet.errors import AnnotationError
from wsi_magnet.polygons import Ring, region_of, surfaces

ASAP_ROOT = "ASAP_Annotations"

_ASAP_REGIONS = ("polygon", "spline", "rectangle")
_ASAP_OTHERS = ("dot", "pointset", "measurement")
_GENERATED_NAME = re.compile(r"Annotation \d+")

IMAGESCOPE_ROOT = "Annotations"

MAX_GAP = 0.05
"""Gap between a contour's ends, as a share of its length, above which the contour is refused as unclosed; unless the
closing edge is no longer than the longest edge, as in a polygon whose last corner does not repeat the first."""

_KINDS = {"0": "polygon", "1": "rectangle", "2": "ellipse", "3": "arrow", "4": "ruler", "5": "pointer"}
"""Meaning of a region's Type. GeoShape, which some programs write, takes precedence."""

_NO_REGIONS = ("arrow", "ruler", "pointer", "points", "point", "line", "polyline")


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise AnnotationError(f"it declares a document type ({name!r}), which annotations do not need; remove it")


def parse_xml(data: bytes) -> ElementTree.Element:
    """Root element of a document. Raises AnnotationError for anything but XML."""
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(data)
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise AnnotationError(f"it is not XML, or truncated: {error}") from error
    except (LookupError, ValueError) as error:  # an encoding that does not exist
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"it is not XML: {error}") from error
    return root


def parse_asap(root: Element) -> list[Drawn]:
    """Regions of an ASAP document, in its order. Raises AnnotationError, naming the annotation."""
    return list(_asap_drawn(root))


def _asap_drawn(root: Element) -> Iterator[Drawn]:
    for number, annotation in enumerate(root.iter("Annotation"), 1):
        label = _asap_label(annotation)
        what = f"annotation {number} {annotation.get('Name') or label!r}"
        kind = annotation.get("Type", "Polygon")
        if kind.lower() in _ASAP_REGIONS:
            yield Drawn(
                what, label, region_of(_asap_ring(annotation, what), what=what), annotation.get("Name", "").strip()
            )
        elif kind.lower() not in _ASAP_OTHERS:
            raise AnnotationError(f"{what}: unknown type {kind!r}; make it a polygon")


def _asap_label(annotation: Element) -> str:
    group, name = (annotation.get(key, "").strip() for key in ("PartOfGroup", "Name"))
    if group and group != "None":
        return group
    return UNCLASSIFIED if not name or _GENERATED_NAME.fullmatch(name) else name


def _asap_ring(annotation: Element, what: str) -> Ring:
    points = sorted(annotation.iter("Coordinate"), key=lambda one: _asap_order(one, what))
    return checked_ring([_point_of(point.attrib, what) for point in points], what)


def _asap_order(point: Element, what: str) -> int:
    try:
        return int(point.get("Order", "0"))
    except ValueError as error:
        raise AnnotationError(f"{what}: a point of order {point.get('Order')!r}") from error


def parse_imagescope(root: Element) -> list[Drawn]:
    """Regions of an ImageScope document without their holes, in order. Raises AnnotationError, naming the region."""
    return [drawn for layer in root.iter("Annotation") for drawn in _layer(layer)]


def _layer(layer: Element) -> Iterator[Drawn]:
    drawn = [(region, one) for region in layer.iter("Region") for one in _region_drawn(region, layer)]
    holes = [one.region for region, one in drawn if _is_hole(region)]
    for region, one in drawn:
        if not _is_hole(region):
            left = surfaces(one.region.difference(shapely.union_all(holes))) if holes else one.region
            yield replace(one, region=left)


def _is_hole(region: Element) -> bool:
    return region.get("NegativeROA", "0") == "1"


def _region_drawn(region: Element, layer: Element) -> Iterator[Drawn]:
    label = _region_label(region, layer)
    what = f"region {region.get('Id', '?')} {label!r}"
    name = (region.get("Text") or "").strip()
    kind = (region.get("GeoShape") or _KINDS.get(region.get("Type", "0"), "")).lower()
    points = [_point_of(vertex.attrib, what) for vertex in region.iter("Vertex")]
    if kind == "ellipse":
        yield Drawn(what, label, _ellipse(_corners(points, what)), name)
    elif kind == "rectangle":
        ring = checked_ring(points if len(points) > 2 else _corners(points, what), what)
        yield Drawn(what, label, region_of(ring, what=what), name)
    elif kind in ("polygon", "freehand"):
        yield Drawn(what, label, region_of(_closed(checked_ring(points, what), what), what=what), name)
    elif kind not in _NO_REGIONS:
        raise AnnotationError(f"{what}: unknown type {region.get('GeoShape') or region.get('Type')!r}")


def _region_label(region: Element, layer: Element) -> str:
    names = (layer.get("Name"), _description(layer), region.get("Text"), _description(region))
    return next((name.strip() for name in names if name and name.strip()), UNCLASSIFIED)


def _description(element: Element) -> str:
    found = [
        one.get("Value", "") for one in element.findall("Attributes/Attribute") if one.get("Name") == "Description"
    ]
    return found[0] if found else ""


def _closed(ring: Ring, what: str) -> Ring:
    share_of_length, share_of_longest = _gap_of(ring)
    if share_of_length > MAX_GAP and share_of_longest > 1:
        raise AnnotationError(
            f"{what}: unclosed contour, its ends {share_of_length:.0%} of its length apart; close it in ImageScope"
        )
    return ring


def _corners(points: list[tuple[float, float]], what: str) -> list[tuple[float, float]]:
    """Corners of the bounding box; ImageScope writes two or four corners of an ellipse or rectangle."""
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


def _point_of(attributes: Mapping[str, str], what: str) -> tuple[float, float]:
    """X and Y of a vertex, also with decimal commas, which some programs write. Raises AnnotationError."""
    try:
        x, y = (float(attributes[name].replace(",", ".")) for name in ("X", "Y"))
    except (KeyError, ValueError) as error:
        raise AnnotationError(f"{what}: a point without numbers X and Y") from error
    return x, y


def _gap_of(ring: Ring) -> tuple[float, float]:
    """Distance between a contour's ends, as a share of its length and of its longest edge."""
    drawn = np.hypot(*np.diff(ring, axis=0).T)
    gap = float(np.hypot(*(ring[-1] - ring[0])))
    return gap / float(drawn.sum()), gap / float(drawn.max())
