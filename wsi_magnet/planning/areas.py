"""Areas of a slide that a run analyses or leaves out: polygons, and the cells and pixels in them.

A pixel lies in an area if its centre does. A cell of the finest scale is computed if an area touches it; of the coarser
scales the cells too whose results these depend on, so that the mask within the areas is that of the whole slide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.geometry import Box, FloatBox, ceil_div
from wsi_magnet.planning.plan import Cells, Plan, ScaleLayout, grid_box
from wsi_magnet.polygons import Edges, Inside, edges_of, fill, touched
from wsi_magnet.scales import Scale
from wsi_magnet.storage.location import Location, read_bytes, replace_bytes

Role = Literal["roi", "exclude", "tissue"]
"""Use of an area: analysed, left out, or tissue in place of the tissue step's."""


@dataclass(frozen=True, eq=False)
class Area:
    """An area of a slide."""

    name: str
    kind: str
    """Its class in the file it comes from; "" without one."""
    outline: BaseGeometry
    """Polygon or multipolygon, not empty; in level-0 pixels from the canvas's corner."""

    @property
    def bounds(self) -> FloatBox:
        """Smallest rectangle around it, in level-0 pixels."""
        return FloatBox(*self.outline.bounds)

    def inside(self, scale: Scale, box: Box) -> Inside:
        """Bool (box height, box width): True for pixels of a scale whose centres lie in the area."""
        dy = scale.downsample_xy[1]
        return fill(self._sorted.between(box.y0 * dy, box.y1 * dy), scale, box)

    def cells(self, scale: Scale, cell_px: int, *, whole: bool) -> Cells:
        """Bool (rows, columns): cells that lie in the area as a whole, or all that it touches."""
        rows, cols = (ceil_div(length, cell_px) for length in scale.size.hw)
        found = np.zeros((rows, cols), np.bool_)
        holds = shapely.contains if whole else shapely.intersects
        width, height = (cell_px * one for one in scale.downsample_xy)
        for part in shapely.get_parts(self.outline):
            x0, y0, x1, y1 = part.bounds
            r = np.arange(max(0, int(y0 // height)), min(rows, int(y1 // height) + 1))
            c = np.arange(max(0, int(x0 // width)), min(cols, int(x1 // width) + 1))
            if not len(r) or not len(c):
                continue
            left, top = np.meshgrid(c * width, r * height)
            boxes = shapely.box(left, top, left + width, top + height)
            shapely.prepare(part)
            found[np.ix_(r, c)] |= holds(part, boxes)
        return found

    @cached_property
    def _sorted(self) -> _SortedEdges:
        return _SortedEdges.of(edges_of(self.outline))


@dataclass(frozen=True, eq=False, slots=True)
class _SortedEdges:
    """Edges by their upper end, so that those of a few rows are found without looking at all."""

    edges: Edges
    lowest: npt.NDArray[np.float64]
    """Greatest y of an edge and all before it."""

    @staticmethod
    def of(edges: Edges) -> _SortedEdges:
        ordered = edges[np.argsort(edges[:, 1], kind="stable")]
        return _SortedEdges(ordered, np.maximum.accumulate(ordered[:, 3]) if len(ordered) else ordered[:, 3])

    def between(self, top: float, bottom: float) -> Edges:
        first = int(np.searchsorted(self.lowest, top, "left"))
        past = int(np.searchsorted(self.edges[:, 1], bottom, "right"))
        found = self.edges[first:past]
        return found[found[:, 3] >= top]


@dataclass(frozen=True, eq=False)
class Areas:
    """Areas of a run; without regions the whole slide is analysed but for what is excluded."""

    regions: tuple[Area, ...] = ()
    excluded: tuple[Area, ...] = ()
    tissue: tuple[Area, ...] | None = None
    """Areas that are tissue; None leaves that to the tissue step."""

    @property
    def restrict(self) -> bool:
        """True if some of the slide is not analysed because of them."""
        return bool(self.regions or self.excluded)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names, classes and outlines."""
        return hashlib.sha256(self._encoded).hexdigest()

    def cells(self, scale: Scale, cell_px: int) -> Cells:
        """Bool (rows, columns): cells of a scale with analysed pixels, and perhaps a few at whose edge an area ends."""
        found = np.full(tuple(ceil_div(length, cell_px) for length in scale.size.hw), not self.regions)
        for one in self.regions:
            found |= one.cells(scale, cell_px, whole=False)
        for one in self.excluded:
            found &= ~one.cells(scale, cell_px, whole=True)
        return found

    def inside(self, scale: Scale, box: Box) -> Inside:
        """Bool (box height, box width): True for pixels of a scale that are analysed."""
        return (_union(self.regions, scale, box) if self.regions else np.ones(box.size.hw, np.bool_)) & self._left(
            scale, box
        )

    def by_region(self, scale: Scale, box: Box) -> Iterator[tuple[int, Inside]]:
        """Index of each region with pixels in the box, and bool (box height, box width): its pixels, without those
        that are excluded.
        """
        left: Inside | None = None
        for index, one in enumerate(self.regions):
            if not touched(one.bounds, scale, box).empty and (inside := one.inside(scale, box)).any():
                left = self._left(scale, box) if left is None else left
                yield index, inside & left

    def tissue_at(self, scale: Scale) -> Inside:
        """Bool (rows, columns) of a whole scale: pixels of the tissue areas."""
        return _union(self.tissue or (), scale, scale.grid)

    def _left(self, scale: Scale, box: Box) -> Inside:
        return ~_union(self.excluded, scale, box)

    def save(self, path: Location) -> None:
        """Write GeoJSON, in level-0 pixels from the canvas's corner, which is where QuPath has (0, 0)."""
        replace_bytes(path, self._encoded)

    @staticmethod
    def load(path: Location) -> Areas:
        """Read what `save` wrote."""
        found: dict[str, list[Area]] = {role: [] for role in get_args(Role)}
        values = json.loads(read_bytes(path))
        for one in values["features"]:
            properties = one["properties"]
            outline = shapely.from_geojson(json.dumps(one["geometry"]))
            found[properties["role"]].append(Area(properties["name"], properties["kind"], outline))
        tissue = tuple(found["tissue"]) if values["tissue"] else None
        return Areas(tuple(found["roi"]), tuple(found["exclude"]), tissue)

    @cached_property
    def _encoded(self) -> bytes:
        roles = {"roi": self.regions, "exclude": self.excluded, "tissue": self.tissue or ()}
        features = [_feature(role, one) for role, areas in roles.items() for one in areas]
        values = {"type": "FeatureCollection", "tissue": self.tissue is not None, "features": features}
        return json.dumps(values, separators=(",", ":")).encode()


def restricted_to(plan: Plan, areas: Areas) -> Plan:
    """The plan of the cells that areas touch alone, with the cells of coarser scales that their results depend on."""
    kept, finer = [], None
    for one in reversed(plan.scales):
        wanted = areas.cells(one.scale, one.layout.cell_px)
        if finer is not None:
            wanted |= _beneath(finer.tissue, finer.layout, one.tissue.shape)
        finer = replace(one, tissue=one.tissue & wanted)
        kept.append(finer)
    return Plan(plan.ladder, tuple(reversed(kept)), float(kept[0].tissue.mean()))


def _beneath(cells: Cells, layout: ScaleLayout, shape: tuple[int, ...]) -> Cells:
    """Bool of that shape: cells of the coarser scale from which the patches of a scale's cells are upsampled."""
    top, bottom = _coarser_spans(cells.shape[0], layout, shape[0])
    left, right = _coarser_spans(cells.shape[1], layout, shape[1])
    rows, cols = np.nonzero(cells)
    # Corners of rectangles, summed along both axes: above 0 wherever one lies.
    corners = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
    for r, c, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        np.add.at(corners, (r[rows], c[cols]), sign)
    return np.asarray(corners.cumsum(0).cumsum(1)[:-1, :-1] > 0)


def _coarser_spans(count: int, layout: ScaleLayout, coarser: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """First and past-the-last cell of the coarser scale for each row (or column) of cells."""
    cell_px = layout.cell_px
    # A pixel more on each side for the interpolation, and one for the blurred query score.
    boxes = [grid_box(i, i, cell_px).grow(layout.halo_px).halve().grow(2) for i in range(count)]
    first = np.clip([one.y0 // cell_px for one in boxes], 0, coarser).astype(np.intp)
    past = np.clip([ceil_div(one.y1, cell_px) for one in boxes], 0, coarser).astype(np.intp)
    return first, past


def _union(areas: Sequence[Area], scale: Scale, box: Box) -> Inside:
    found = np.zeros(box.size.hw, np.bool_)
    for one in areas:
        part = touched(one.bounds, scale, box)
        if not part.empty:
            found[part.relative_to(box).slices_yx] |= one.inside(scale, part)
    return found


def _feature(role: str, area: Area) -> Mapping[str, Any]:
    properties = {"role": role, "name": area.name, "kind": area.kind}
    return {"type": "Feature", "properties": properties, "geometry": shapely.geometry.mapping(area.outline)}
