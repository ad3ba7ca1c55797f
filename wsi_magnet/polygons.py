"""Polygons on the pixel grid of a scale.

Polygons are filled even-odd along the rows of the grid. The point where an edge crosses a row of pixel centres depends
on the edge and the row alone, not on the rectangle that is read, so any two reads agree where they overlap. A centre
exactly on an edge belongs to the polygon on its right or below it: polygons that share an edge share no pixel and leave
no gap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box, FloatBox
from wsi_magnet.scales import Scale

Ring = npt.NDArray[np.float64]
"""float64 (n, 2): x and y of a contour's points."""

Edges = npt.NDArray[np.float64]
"""float64 (n, 4): x and y of the upper end, x and y of the lower end; in level-0 pixels from the canvas's corner.
Horizontal edges, which cross no row, are left out."""

MOST_CROSSINGS = 10_000
"""Most times that a contour may cross itself: a careless freehand contour does a dozen times."""

_AT_ONCE = 256
"""Edges whose crossings are looked for at once."""

Inside = npt.NDArray[np.bool_]
"""bool (height, width): True for pixels whose centre lies inside."""


def region_of(shell: Ring, holes: Sequence[Ring] = (), what: str = "a region") -> BaseGeometry:
    """Polygon within a contour and outside its holes; of a self-crossing contour, everything that it encloses.

    what: its name in errors. Raises AnnotationError for contours that cross themselves more than `MOST_CROSSINGS`
    times, whose parts would take minutes to find.
    """
    polygon = shapely.Polygon(shell, holes)
    if polygon.is_valid:
        return polygon
    if _crossings(polygon) > MOST_CROSSINGS:
        raise AnnotationError(
            f"{what}: its contour crosses itself more than {MOST_CROSSINGS:,} times; draw it again, or simplify it"
        )
    return surfaces(shapely.make_valid(polygon))


def _crossings(polygon: BaseGeometry) -> int:
    """Pairs of edges that have a point in common and are no neighbours, counted until they are too many."""
    edges = np.concatenate([np.stack([p[:-1], p[1:]], axis=1) for p in _rings_of(polygon)])
    parts = np.atleast_1d(np.asarray(shapely.linestrings(edges), object))
    tree, found = shapely.STRtree(parts), 0
    for first in range(0, len(parts), _AT_ONCE):
        own, other = tree.query(parts[first : first + _AT_ONCE], predicate="intersects")
        found += int(np.count_nonzero(other > own + first)) - min(_AT_ONCE, len(parts) - first)
        if found > MOST_CROSSINGS:
            break
    return max(0, found)


def _rings_of(polygon: BaseGeometry) -> list[Ring]:
    return [shapely.get_coordinates(ring) for ring in shapely.get_rings(polygon)]


def surfaces(geometry: BaseGeometry) -> BaseGeometry:
    """The parts of a geometry that have an area; lines and points, which repairing leaves, are dropped."""
    return shapely.union_all([part for part in shapely.get_parts(geometry) if part.area > 0])


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
