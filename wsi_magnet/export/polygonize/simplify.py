"""Simplified outlines that still fit together: the choice of corners of a block that are left out.

A block of labels is a coverage: its regions, background included, share every edge. GEOS simplifies a coverage edge by
edge (Visvalingam and Whyatt 1993, so that no two edges come to cross), which only removes points. Points on a block's
border stay, so blocks are independent, and outlines that fit together within each block do so everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from wsi_magnet.export.polygonize.corners import Bools, Codes, Corners
from wsi_magnet.export.polygonize.polygons import polygon_of
from wsi_magnet.export.polygonize.regions import Block, LabelRegion, Tracing, trace
from wsi_magnet.geometry import Size

Geometries = npt.NDArray[np.object_]

_TRIES = (1.25, 1, 0.85, 0.72, 0.5, 0.35, 0.25)
"""Fractions of the tolerance, tried in turn. GEOS bounds the area that each removed point cuts off, not the distance by
which an outline moves when many are removed; where that is too large, fewer points are removed. (0.72 of a pixel
removes the corners of a staircase; less removes nothing.)"""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Simplifier:
    """Chooses the corners that stay, block by block."""

    tolerance_px: float
    """Largest distance of a removed point from the simplified outline."""

    def __call__(self, codes: Codes, corners: Corners, origin_xy: tuple[int, int]) -> Bools:
        """True for the corners of a block that stay. codes: uint8 (h, w); origin_xy: position of its first pixel."""
        x, y = corners.x - origin_xy[0], corners.y - origin_xy[1]
        border = (x == 0) | (y == 0)
        if border.all():
            return np.asarray(border)
        kept = np.unique(_keys(*self._simplified(codes).T))
        return np.asarray(border | np.isin(_keys(x, y), kept), bool)

    def _simplified(self, codes: Codes) -> npt.NDArray[np.float64]:
        """(n, 2): the points of all outlines of a block after simplification."""
        polygons = np.array([polygon_of(region.rings) for region in _coverage(codes)])
        for share in _TRIES:
            simpler = shapely.coverage_simplify(polygons, share * self.tolerance_px, simplify_boundary=False)
            if self._near(polygons, simpler):
                return shapely.get_coordinates(simpler)
        return shapely.get_coordinates(polygons)

    def _near(self, polygons: Geometries, simpler: Geometries) -> bool:
        outlines = shapely.boundary(simpler)
        shapely.prepare(outlines)
        points, index = shapely.get_coordinates(polygons, return_index=True)
        return bool(np.all(shapely.dwithin(outlines[index], shapely.points(points), self.tolerance_px + _ROUNDING)))


def _coverage(codes: Codes) -> Iterator[LabelRegion]:
    """The regions of a block, background included, with a point wherever three of them meet."""
    size = Size(codes.shape[1], codes.shape[0])
    keep_all = lambda _codes, corners, _origin: np.ones(len(corners), bool)  # noqa: E731
    side_px = max(size.wh) + 1
    return trace(Tracing(size, lambda box: Block(codes + 1), 0, keep_all, open_points=1 << 40, side_px=side_px))


def _keys(x: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """One number for each point; GEOS moves no points, so coordinates are whole."""
    return (np.rint(x).astype(np.int64) << 32) + np.rint(y).astype(np.int64)
