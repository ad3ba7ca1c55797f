"""ASAP's XML: polygons, splines and rectangles in groups, in level-0 pixels.

The group is the class; without one ("None") it is the annotation's own name, unless ASAP made that up. Contours close
by themselves. A spline is taken for the polygon through its points. Dots, point sets and measurements are no regions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from wsi_magnet.annotations.safe_xml import point_of
from wsi_magnet.annotations.shapes import UNCLASSIFIED, Drawn, Ring, checked_ring, region_of
from wsi_magnet.errors import AnnotationError

ROOT = "ASAP_Annotations"

_REGIONS = ("polygon", "spline", "rectangle")
_OTHERS = ("dot", "pointset", "measurement")
_MADE_UP = re.compile(r"Annotation \d+")


def parse_asap(root: Element) -> list[Drawn]:
    """The regions of a document, in its order. Raises AnnotationError, naming the annotation."""
    return list(_drawn(root))


def _drawn(root: Element) -> Iterator[Drawn]:
    for number, annotation in enumerate(root.iter("Annotation"), 1):
        label = _label(annotation)
        what = f"annotation {number} {annotation.get('Name') or label!r}"
        kind = annotation.get("Type", "Polygon")
        if kind.lower() in _REGIONS:
            yield Drawn(what, label, region_of(_ring(annotation, what)))
        elif kind.lower() not in _OTHERS:
            raise AnnotationError(f"{what}: unknown type {kind!r}; make it a polygon")


def _label(annotation: Element) -> str:
    group, name = (annotation.get(key, "").strip() for key in ("PartOfGroup", "Name"))
    if group and group != "None":
        return group
    return UNCLASSIFIED if not name or _MADE_UP.fullmatch(name) else name


def _ring(annotation: Element, what: str) -> Ring:
    points = sorted(annotation.iter("Coordinate"), key=lambda one: _order(one, what))
    return checked_ring([point_of(point.attrib, what) for point in points], what)


def _order(point: Element, what: str) -> int:
    try:
        return int(point.get("Order", "0"))
    except ValueError as error:
        raise AnnotationError(f"{what}: a point of order {point.get('Order')!r}") from error
