"""Drawn regions as label sets on any scale's grid; later regions of a file lie on top of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.annotations.coding import Coding
from wsi_magnet.annotations.types import Sets
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box, FloatBox, Size
from wsi_magnet.polygons import Edges, Ring, edges_of, fill, touched
from wsi_magnet.scales import Scale

UNCLASSIFIED = "unclassified"
"""Label of a region that has neither a class nor a name; a coding may give it a meaning."""

FARTHEST_PX = 1e9
"""Larger coordinates are refused."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One region of a file."""

    what: str
    """Name of the region in errors: "object 3 'Tumor'"."""
    label: str
    """Its class, as named in the file."""
    region: BaseGeometry
    """Valid polygon or multipolygon, perhaps empty; in the file's own frame, or level-0 pixels from the canvas's
    corner."""
    name: str = ""
    """Its own name in the file, besides the class; "" without one."""


def checked_ring(points: Any, what: str) -> Ring:
    """Contour of pairs of numbers; a third number is ignored.

    Raises AnnotationError for points that are not finite, and for fewer than three different points.
    """
    try:
        ring = np.array([(point[0], point[1]) for point in points], np.float64).reshape(-1, 2)
    except (LookupError, TypeError, ValueError) as error:
        raise AnnotationError(f"{what}: its contour is not a list of points (x, y)") from error
    check_pixels(ring, what)
    different = len(np.unique(ring[:, 0] + 1j * ring[:, 1]))
    if different < 3:
        raise AnnotationError(f"{what}: its contour has {different} different points; a region needs 3")
    return ring


def check_pixels(points: Ring, what: str) -> None:
    """Check that points are finite and within `FARTHEST_PX`. Raises AnnotationError."""
    if not np.isfinite(points).all() or (np.abs(points) > FARTHEST_PX).any():
        raise AnnotationError(f"{what}: its contour has a point that is not a pixel (not finite, or beyond 1e9)")


def moved(drawn: Drawn, dx: float, dy: float) -> Drawn:
    """The region shifted by (dx, dy)."""
    offset = np.array((dx, dy))
    return replace(drawn, region=shapely.transform(drawn.region, lambda points: points + offset))


class ShapeAnnotation:
    """Drawn regions of a slide; an `Annotation`. Keeps each region's edges, and no open file."""

    def __init__(self, drawn: Sequence[Drawn], canvas: Size, coding: Coding) -> None:
        """drawn: in level-0 pixels from the canvas's corner.

        Raises AnnotationError for an unknown label, and where no region lies on the slide.
        """
        if not drawn:
            raise AnnotationError("it has no region; draw some, or leave the file out")
        self.n_classes = len(coding.classes)
        self._canvas = canvas
        self._ignored = coding.ignored
        self._sets = [_set_of(one, coding) for one in drawn]
        self._bounds = [FloatBox(*one.region.bounds) for one in drawn]
        self._edges: list[Edges] = [edges_of(one.region) for one in drawn]
        self._tree = shapely.STRtree([one.region for one in drawn])
        if not len(self._tree.query(shapely.box(0, 0, *canvas.wh))):
            raise AnnotationError(
                f"none of its regions ({len(drawn)}) lies on the slide's {canvas} pixels; are they of another slide?"
            )

    def read(self, scale: Scale, box: Box) -> Sets:
        """See `Annotation.read`."""
        sets = np.full(box.size.hw, self._ignored, np.uint32)
        covered = box.intersect(scale.grid)
        if covered.empty:
            return sets
        part = scale.level0(covered)
        for index in np.sort(self._tree.query(shapely.box(part.x0, part.y0, part.x1, part.y1))).tolist():
            self._paint(index, scale, covered, sets[covered.relative_to(box).slices_yx])
        self._clear_beyond_canvas(scale, box, sets)
        return sets

    def check(self) -> None:
        """No-op: labels are looked up on opening."""

    def close(self) -> None:
        """No-op: no file is held open."""

    def _paint(self, index: int, scale: Scale, box: Box, sets: Sets) -> None:
        within = touched(self._bounds[index], scale, box)
        if not within.empty:
            inside = fill(self._edges[index], scale, within)
            sets[within.relative_to(box).slices_yx][inside] = self._sets[index]

    def _clear_beyond_canvas(self, scale: Scale, box: Box, sets: Sets) -> None:
        """Mark pixels of the last column and row as unlabelled whose centres lie beyond the canvas."""
        (dx, dy), (width, height) = scale.downsample_xy, self._canvas.wh
        sets[:, (np.arange(box.x0, box.x1) + 0.5) * dx >= width] = self._ignored
        sets[(np.arange(box.y0, box.y1) + 0.5) * dy >= height] = self._ignored


def _set_of(drawn: Drawn, coding: Coding) -> int:
    try:
        return coding.set_of(drawn.label)
    except AnnotationError as error:
        raise AnnotationError(f"{drawn.what}: {error}") from error
