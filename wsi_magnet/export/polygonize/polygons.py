"""Regions as polygons with holes, cut where other programs could not handle their number of points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from wsi_magnet.export.polygonize.regions import BLOCK_PX, LabelRegion
from wsi_magnet.export.polygonize.rings import Points

GRID_PX = BLOCK_PX
"""Spacing, in pixels of the mask, of the lines along which polygons are preferably cut: simplified outlines have points
there, so a cut through two neighbours leaves no gap."""


@dataclass(frozen=True, slots=True)
class ShapeLimits:
    """Limits for regions that become polygons, and for the size of the polygons."""

    min_region_px: float = 0
    """Regions with a smaller area are left out, parts of larger ones never."""
    min_hole_px: float = 0
    """Holes with a smaller area are closed."""
    max_vertices: int = 5000
    """A polygon with more, its holes' included, is cut."""


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """A polygon, and its region."""

    polygon: shapely.Polygon
    """In pixels of the mask: (0, 0) is the upper left corner of the first."""
    area_px: float
    region: LabelRegion
    part: bool
    """True if the polygon is only a part of the region."""


def shapes_of(region: LabelRegion, limits: ShapeLimits) -> Iterator[Shape]:
    """The polygons of a region: one, unless it has too many points; none if it is too small."""
    if region.pixels < limits.min_region_px and not region.cut:
        return
    polygon = polygon_of(region.rings, limits.min_hole_px)
    if _vertices(polygon) <= limits.max_vertices:
        yield Shape(polygon, region.pixels, region, region.cut)
        return
    for piece in cut_polygon(polygon, limits.max_vertices):
        yield Shape(piece, piece.area, region, True)


def polygon_of(rings: Sequence[Points], min_hole_px: float = 0) -> shapely.Polygon:
    """Polygon of the kept points; a hole's area, for `min_hole_px`, is that of all its points."""
    areas = [signed_area(ring) for ring in rings]
    shell = int(np.argmax(areas))
    holes = [_kept(ring) for ring, area in zip(rings, areas, strict=True) if area < 0 and -area >= min_hole_px]
    return shapely.Polygon(_kept(rings[shell]), holes)


def signed_area(ring: Points) -> float:
    """Area of a ring in square pixels; negative for a hole."""
    x, y = ring[:, 0].astype(np.int64), ring[:, 1].astype(np.int64)
    return float(x[:-1] @ y[1:] - y[:-1] @ x[1:] + x[-1] * y[0] - y[-1] * x[0]) / 2


def _kept(ring: Points) -> Points:
    return ring[ring[:, 2] > 0, :2]


def cut_polygon(polygon: shapely.Polygon, max_vertices: int) -> Iterator[shapely.Polygon]:
    """Halve a polygon across its longer side until each piece has at most `max_vertices` points, or is a pixel long."""
    waiting = [polygon]
    while waiting:
        one = waiting.pop()
        x0, y0, x1, y1 = one.bounds
        if _vertices(one) <= max_vertices or max(x1 - x0, y1 - y0) <= 1:
            yield one
            continue
        if x1 - x0 >= y1 - y0:
            line = _line(x0, x1)
            halves = shapely.box(x0, y0, line, y1), shapely.box(line, y0, x1, y1)
        else:
            line = _line(y0, y1)
            halves = shapely.box(x0, y0, x1, line), shapely.box(x0, line, x1, y1)
        for half in reversed(halves):
            parts = shapely.get_parts(shapely.intersection(one, half))
            waiting += [part for part in parts if part.geom_type == "Polygon" and part.area > 0]


def _line(low: float, high: float) -> float:
    """Position of the cut: a whole number near the middle, on the grid if possible."""
    middle = (low + high) / 2
    on_grid = round(middle / GRID_PX) * GRID_PX
    return float(on_grid if low < on_grid < high else min(max(round(middle), low + 0.5), high - 0.5))


def _vertices(polygon: shapely.Polygon) -> int:
    # Each ring repeats its first point, which is not another vertex.
    return int(shapely.get_num_coordinates(polygon)) - 1 - int(shapely.get_num_interior_rings(polygon))
