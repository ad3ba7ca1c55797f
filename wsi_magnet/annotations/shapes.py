"""Drawn regions as label sets on any scale's grid; later regions of a file lie on top of earlier ones.

Regions are filled even-odd along the rows of the grid. The point where an edge crosses a row of pixel centres depends
on the edge and the row alone, not on the rectangle that is read, so any two reads agree where they overlap. A centre
exactly on an edge belongs to the region on its right or below it: regions that share an edge share no pixel and leave
no gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.annotations.coding import Coding
from wsi_magnet.annotations.types import Sets
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box, FloatBox, Size
from wsi_magnet.scales import Scale

UNCLASSIFIED = "unclassified"
"""Label of a region that has neither a class nor a name; a coding may give it a meaning."""

Ring = npt.NDArray[np.float64]
"""float64 (n, 2): x and y of a contour's points."""

Edges = npt.NDArray[np.float64]
"""float64 (n, 4): x and y of the upper end, x and y of the lower end; in level-0 pixels from the canvas's corner.
Horizontal edges, which cross no row, are left out."""

Inside = npt.NDArray[np.bool_]
"""bool (height, width): True for pixels whose centre lies inside."""

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


def region_of(shell: Ring, holes: Sequence[Ring] = ()) -> BaseGeometry:
    """Polygon within a contour and outside its holes; of a self-crossing contour, everything that it encloses."""
    polygon = shapely.Polygon(shell, holes)
    return polygon if polygon.is_valid else surfaces(shapely.make_valid(polygon))


def surfaces(geometry: BaseGeometry) -> BaseGeometry:
    """The parts of a geometry that have an area; lines and points, which repairing leaves, are dropped."""
    return shapely.union_all([part for part in shapely.get_parts(geometry) if part.area > 0])


def moved(drawn: Drawn, dx: float, dy: float) -> Drawn:
    """The region shifted by (dx, dy)."""
    offset = np.array((dx, dy))
    return Drawn(drawn.what, drawn.label, shapely.transform(drawn.region, lambda points: points + offset))


def edges_of(region: BaseGeometry) -> Edges:
    """Edges of all rings, holes included, of a valid polygon or multipolygon."""
    rings = shapely.get_rings(shapely.get_parts(region))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    edges = np.concatenate([points[:-1], points[1:]], axis=1)[same]
    upward = edges[:, 1] > edges[:, 3]
    edges[upward] = edges[upward][:, [2, 3, 0, 1]]
    return np.asarray(edges[edges[:, 1] < edges[:, 3]])


def fill(edges: Edges, scale: Scale, box: Box) -> Inside:
    """Mask of the pixels of `box`, in pixels of the scale, whose centres lie inside the contour."""
    height, width = box.size.hw
    dx, dy = scale.downsample_xy
    # An edge crosses a row if it begins on the row's centre line or above it and ends below it: at a corner of two
    # edges, just as many cross as change inside to outside.
    first = np.clip(_first_centre(edges[:, 1], dy), box.y0, box.y1)
    counts = np.clip(_first_centre(edges[:, 3], dy), box.y0, box.y1) - first
    crossing = np.repeat(edges, counts, axis=0)
    rows = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(len(crossing))
    x0, y0, x1, y1 = crossing.T
    x = x0 + ((rows + 0.5) * dy - y0) * ((x1 - x0) / (y1 - y0))
    columns = np.clip(_first_centre(x, dx), box.x0, box.x1) - box.x0
    turns = np.bincount((rows - box.y0) * (width + 1) + columns, minlength=height * (width + 1)) & 1
    inside = np.bitwise_xor.accumulate(turns.astype(np.uint8).reshape(height, width + 1), axis=1)
    return inside[:, :width].astype(bool)


def touched(region: FloatBox, scale: Scale, box: Box) -> Box:
    """The part of `box` that a region, given by its bounding box in level-0 pixels, can cover."""
    outer = region.scale(1 / scale.downsample_xy[0], 1 / scale.downsample_xy[1]).outer()
    return outer.grow(1).intersect(box)


def _first_centre(positions: npt.NDArray[np.float64], downsample: float) -> npt.NDArray[np.int64]:
    """Index of the first pixel whose centre lies at a position or beyond it."""
    return np.ceil(positions / downsample - 0.5).astype(np.int64)


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
