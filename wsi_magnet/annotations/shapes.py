"""Regions that people have drawn, as sets on any scale's grid; the later in the file lies on top of the earlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.annotations.coding import Coding
from wsi_magnet.annotations.raster import Edges, edges_of, fill, touched
from wsi_magnet.annotations.types import Sets
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box, FloatBox, Size
from wsi_magnet.scales import Scale

UNCLASSIFIED = "unclassified"
"""The label of what has neither a class nor a name of its own, for a coding to say what it means."""

Ring = npt.NDArray[np.float64]
"""float64 (n, 2): x and y of a contour's points."""

FARTHEST_PX = 1e9
"""Coordinates beyond it are no pixels."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One region as it stands in a file."""

    what: str
    """What an error calls it: "object 3 'Tumor'"."""
    label: str
    """Its class as the file names it."""
    region: BaseGeometry
    """Polygon or multipolygon, valid, perhaps empty; in the file's own frame, or level-0 pixels from the canvas's
    corner."""


def checked_ring(points: Any, what: str) -> Ring:
    """A contour's points, of pairs of numbers; a third number is left out.

    Raises AnnotationError for what is not finite, or has fewer than three different points.
    """
    try:
        ring = np.array([(point[0], point[1]) for point in points], np.float64).reshape(-1, 2)
    except (LookupError, TypeError, ValueError) as error:
        raise AnnotationError(f"{what}: its contour is no list of points (x, y)") from error
    check_pixels(ring, what)
    different = len(np.unique(ring[:, 0] + 1j * ring[:, 1]))
    if different < 3:
        raise AnnotationError(f"{what}: its contour has {different} different points; a region needs 3")
    return ring


def check_pixels(points: Ring, what: str) -> None:
    """Raises AnnotationError for a point that is not finite, or so far away that it is no pixel."""
    if not np.isfinite(points).all() or (np.abs(points) > FARTHEST_PX).any():
        raise AnnotationError(f"{what}: its contour has a point that is no pixel (not finite, or beyond 1e9)")


def region_of(shell: Ring, holes: Sequence[Ring] = ()) -> BaseGeometry:
    """The polygon within a contour and outside its holes; a contour that crosses itself gives all that it encloses."""
    polygon = shapely.Polygon(shell, holes)
    return polygon if polygon.is_valid else surfaces(shapely.make_valid(polygon))


def surfaces(geometry: BaseGeometry) -> BaseGeometry:
    """What has an area of a geometry; lines and points, which mending leaves, are dropped."""
    return shapely.union_all([part for part in shapely.get_parts(geometry) if part.area > 0])


def moved(drawn: Drawn, dx: float, dy: float) -> Drawn:
    """The same elsewhere."""
    offset = np.array((dx, dy))
    return Drawn(drawn.what, drawn.label, shapely.transform(drawn.region, lambda points: points + offset))


class ShapeAnnotation:
    """Regions drawn on a slide; an `Annotation`. Holds no file, and each region's edges."""

    def __init__(self, drawn: Sequence[Drawn], canvas: Size, coding: Coding) -> None:
        """drawn: in level-0 pixels from the canvas's corner.

        Raises AnnotationError for a label that is not known, and where no region lies on the slide.
        """
        if not drawn:
            raise AnnotationError("it holds no region; draw some, or leave it out")
        self.n_classes = len(coding.classes)
        self._canvas = canvas
        self._ignored = coding.ignored
        self._sets = [_set_of(one, coding) for one in drawn]
        self._bounds = [FloatBox(*one.region.bounds) for one in drawn]
        self._edges: list[Edges] = [edges_of(one.region) for one in drawn]
        self._tree = shapely.STRtree([one.region for one in drawn])
        if not len(self._tree.query(shapely.box(0, 0, *canvas.wh))):
            raise AnnotationError(
                f"none of its regions ({len(drawn)}) lies on the slide's {canvas} pixels; are they another slide's?"
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
        self._leave_out_beyond(scale, box, sets)
        return sets

    def check(self) -> None:
        """Nothing is left to check: the labels were looked up when it was opened."""

    def close(self) -> None:
        """Nothing is held open."""

    def _paint(self, index: int, scale: Scale, box: Box, sets: Sets) -> None:
        within = touched(self._bounds[index], scale, box)
        if not within.empty:
            inside = fill(self._edges[index], scale, within)
            sets[within.relative_to(box).slices_yx][inside] = self._sets[index]

    def _leave_out_beyond(self, scale: Scale, box: Box, sets: Sets) -> None:
        """The last column and row may have their centres beyond the canvas, where nothing is labelled."""
        (dx, dy), (width, height) = scale.downsample_xy, self._canvas.wh
        sets[:, (np.arange(box.x0, box.x1) + 0.5) * dx >= width] = self._ignored
        sets[(np.arange(box.y0, box.y1) + 0.5) * dy >= height] = self._ignored


def _set_of(drawn: Drawn, coding: Coding) -> int:
    try:
        return coding.set_of(drawn.label)
    except AnnotationError as error:
        raise AnnotationError(f"{drawn.what}: {error}") from error
