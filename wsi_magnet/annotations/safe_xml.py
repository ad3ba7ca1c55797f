"""XML from strangers, read without what can do harm: a document type, and with it every entity, is refused."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree

import numpy as np

from wsi_magnet.annotations.shapes import Ring
from wsi_magnet.errors import AnnotationError


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise AnnotationError(f"it declares a document type ({name!r}), which no annotation needs; remove it")


def parse_xml(data: bytes) -> ElementTree.Element:
    """The root of a document. Raises AnnotationError for what is no XML."""
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(data)
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise AnnotationError(f"it is no XML, or cut short: {error}") from error
    except (LookupError, ValueError) as error:  # an encoding that does not exist
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"it is no XML: {error}") from error
    return root


def point_of(attributes: Mapping[str, str], what: str) -> tuple[float, float]:
    """X and Y of a vertex; some programs write decimal commas. Raises AnnotationError."""
    try:
        x, y = (float(attributes[name].replace(",", ".")) for name in ("X", "Y"))
    except (KeyError, ValueError) as error:
        raise AnnotationError(f"{what}: a point without numbers X and Y") from error
    return x, y


def open_by(ring: Ring) -> tuple[float, float]:
    """How far the last point of a contour lies from its first, as a share of its length and of its longest edge."""
    drawn = np.hypot(*np.diff(ring, axis=0).T)
    gap = float(np.hypot(*(ring[-1] - ring[0])))
    return gap / float(drawn.sum()), gap / float(drawn.max())
