"""Regions as polygons with holes, cut where other programs could not handle their number of points."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import shapely

from wsi_magnet.export.polygonize.regions import BLOCK_PX, LabelRegion
from wsi_magnet.export.polygonize.rings import Points

GRID_PX = BLOCK_PX
"""Spacing, in pixels of the mask, of the lines along which polygons are preferably cut: simplified outlines have points
there, so a cut through two neighbours leaves no gap."""


_ROOM = 0.8
"""Share of the allowed points up to which a polygon is cut where small pieces are joined to others afterwards."""


@dataclass(frozen=True, slots=True)
class ShapeLimits:
    """Limits for regions that become polygons, and for the size of the polygons."""

    min_region_px: float = 0
    """Regions with a smaller area are left out. Smaller parts of larger regions are joined to the part beside them."""
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
    """Number of the region's pixels in it, without those of holes that were closed. Where a simplified outline is cut,
    the region's pixels are shared out by area."""
    region: LabelRegion
    number: int
    """Number of the polygon among those of its region."""
    part: bool
    """True if the polygon is only a part of the region."""


def shapes_of(regions: Iterable[LabelRegion], limits: ShapeLimits) -> Iterator[Shape]:
    """The polygons of the regions that one strip completes: one each, unless it has too many points.

    Parts of regions that were cut come last, because small ones are joined to their neighbours.
    """
    parts: list[Shape] = []
    for region in regions:
        if region.cut and limits.min_region_px:
            parts += _pieces(region, limits)
        elif region.pixels >= limits.min_region_px or region.cut:
            pieces = _pieces(region, limits)
            yield from _without_crumbs(pieces, limits) if len(pieces) > 1 else pieces
    yield from _without_crumbs(parts, limits)


def _pieces(region: LabelRegion, limits: ShapeLimits) -> list[Shape]:
    """A region as one polygon, or cut; there is room for more points where small pieces are to be joined."""
    polygon = polygon_of(region.rings, limits.min_hole_px)
    if _vertices(polygon) <= limits.max_vertices:
        return [Shape(polygon, region.pixels, region, 0, region.cut)]
    most = int(limits.max_vertices * _ROOM) if limits.min_region_px else limits.max_vertices
    pieces = list(cut_polygon(polygon, most))
    closed = [_exact(ring) for ring in region.rings if 0 < -signed_area(ring) < limits.min_hole_px]
    areas = shapely.area(pieces) - _covered(closed, pieces)
    areas *= region.pixels / areas.sum()
    return [Shape(one, float(areas[i]), region, i, True) for i, one in enumerate(pieces)]


def _exact(ring: Points) -> shapely.Polygon:
    return shapely.Polygon(ring[:, :2])


def _covered(holes: Sequence[shapely.Polygon], pieces: Sequence[shapely.Polygon]) -> npt.NDArray[np.float64]:
    """Area of holes in each piece; float64 (pieces,)."""
    of_piece, of_hole = shapely.STRtree(holes).query(pieces)
    both = shapely.area(shapely.intersection(np.array(pieces)[of_piece], np.array(holes, object)[of_hole]))
    return np.bincount(of_piece, both, len(pieces)).astype(np.float64)


def _without_crumbs(shapes: list[Shape], limits: ShapeLimits) -> list[Shape]:
    """Join each shape that is too small to the one of its class along which it lies longest, smallest first; it stays
    where none has room for its points.
    """
    current: dict[int, Shape] = dict(enumerate(shapes))
    holder = list(range(len(shapes)))  # the shape to which each one has been joined

    def found(number: int) -> int:
        while holder[number] != number:
            number = holder[number]
        return number

    crumbs = [(one.area_px, i) for i, one in current.items() if one.area_px < limits.min_region_px]
    tree = shapely.STRtree([one.polygon for one in shapes]) if crumbs else None
    heapq.heapify(crumbs)
    while crumbs and tree is not None:
        area, number = heapq.heappop(crumbs)
        crumb = current.get(number)
        if crumb is None or crumb.area_px != area:
            continue
        beside = {found(int(other)) for other in tree.query(crumb.polygon)} - {number}
        if (joined := _joined(crumb, {other: current[other] for other in sorted(beside)}, limits)) is not None:
            target, current[target] = joined
            holder[number] = target
            del current[number]
            if current[target].area_px < limits.min_region_px:
                heapq.heappush(crumbs, (current[target].area_px, target))
    return list(current.values())


def _joined(crumb: Shape, others: Mapping[int, Shape], limits: ShapeLimits) -> tuple[int, Shape] | None:
    """The other shape that takes a crumb in, with its number; None where none can."""
    same = {i: one for i, one in others.items() if one.region.code == crumb.region.code}
    shared = {i: shapely.length(shapely.intersection(crumb.polygon, one.polygon)) for i, one in same.items()}
    for i in sorted(same, key=lambda i: -shared[i]):
        one, union = same[i], shapely.union(crumb.polygon, same[i].polygon)
        if shared[i] > 0 and isinstance(union, shapely.Polygon) and _vertices(union) <= limits.max_vertices:
            return i, replace(one, polygon=union, area_px=one.area_px + crumb.area_px)
    return None


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
