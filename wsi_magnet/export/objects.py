"""The regions of a result as objects on its slide: polygons in level-0 pixels with their measurements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import get_args

import numpy as np
import numpy.typing as npt
import shapely

from wsi_magnet.config import CHUNK_PX
from wsi_magnet.errors import ConfigError
from wsi_magnet.export.polygonize.polygons import Shape, ShapeLimits, shapes_of
from wsi_magnet.export.polygonize.regions import CUT, Block, LabelRegion, Tracing, trace
from wsi_magnet.export.polygonize.simplify import Simplifier
from wsi_magnet.geometry import Box
from wsi_magnet.labels import NOT_ANALYSED, NOT_ANALYSED_CLASS, LabelClass
from wsi_magnet.results.reader import CoordinateFrame, Result

GRID = 0.01
"""In level-0 pixels: QuPath since 0.6 rounds all points to this grid; ours are on it, so that none moves there."""

_WIDE = 8
"""Number of cells of the mask that are read at once."""

FULL = 255
"""A stored probability or uncertainty of 1."""


MOST_UM = 10_000
"""Largest distance by which outlines may be moved: a centimetre, beyond which nothing of a slide is left."""


@dataclass(frozen=True, slots=True)
class ObjectOptions:
    """Options for the objects that are made of a mask."""

    frame: CoordinateFrame = "qupath"
    simplify_um: float = 0
    """Largest distance by which an outline may move, in microns; 0 = outlines follow the pixels' edges."""
    min_area_um2: float = 0
    """Smaller regions are left out and smaller holes closed, in square microns."""
    classes: tuple[str, ...] = ()
    """Names; empty = all but background."""
    max_vertices: int = 5000
    """A polygon with more is cut."""

    def __post_init__(self) -> None:
        if self.frame not in get_args(CoordinateFrame):
            raise ConfigError(f"--frame must be {' or '.join(get_args(CoordinateFrame))}; got {self.frame}")
        if not 0 <= self.simplify_um <= MOST_UM or not 0 <= self.min_area_um2 < np.inf:
            raise ConfigError(
                f"--simplify must be 0 to {MOST_UM:,} microns, and --min-area 0 or more; got {self.simplify_um:g} and "
                f"{self.min_area_um2:g}"
            )
        if self.max_vertices < 8:
            raise ConfigError(f"--max-vertices must be 8 or more; got {self.max_vertices}")


@dataclass(frozen=True, eq=False, slots=True)
class SlideObject:
    """A polygon on a slide."""

    label: LabelClass
    polygon: shapely.Polygon
    """Valid, in level-0 pixels of the chosen frame, with coordinates that are multiples of `GRID`."""
    area_um2: float
    """Area of the region's pixels, without closed holes and not of a simplified outline."""
    mean_probability: float | None
    """Mean probability of the class over the region; None where the run did not keep probabilities."""
    mean_uncertainty: float | None
    place: str
    """Identity of the object in its result: the same with other options, as long as its region is not cut."""


def objects_of(source: Result, options: ObjectOptions) -> Iterator[SlideObject]:
    """All objects, strip by strip from the top; memory does not grow with the slide.

    Raises ConfigError for a class that the result does not have, StoreError where the result cannot be read.
    """
    labels = chosen_classes(source, options.classes)
    if len(labels) >= CUT:
        raise ConfigError(
            f"{source.folder} has {len(labels)} classes to outline, and at most {CUT - 1} fit into one export; choose "
            "some with --classes"
        )
    mpp = source.geometry.mpp
    pixel_um2 = mpp * mpp
    limits = ShapeLimits(options.min_area_um2 / pixel_um2, options.min_area_um2 / pixel_um2, options.max_vertices)
    keep = Simplifier(options.simplify_um / mpp) if options.simplify_um else None
    reader = _Reader(source, labels)
    traced = trace(Tracing(source.geometry.size, reader, reader.n_values, keep))
    for _, regions in groupby(traced, lambda region: region.strip):
        for shape in shapes_of(regions, limits):
            yield from reader.objects(shape, options.frame, pixel_um2)


def chosen_classes(source: Result, names: tuple[str, ...]) -> tuple[LabelClass, ...]:
    """The classes of that name, upper or lower case, in the bundle's order; without names all but background.

    "not analysed" is one of them. Raises ConfigError.
    """
    every = [one for one in source.classes if one.value]
    every.append(NOT_ANALYSED_CLASS)
    if not names:
        return tuple(every)
    wanted = {name.strip().lower() for name in names}
    found = tuple(one for one in every if one.name.lower() in wanted)
    if unknown := wanted - {one.name.lower() for one in found}:
        known = ", ".join(one.name for one in every)
        raise ConfigError(f"{source.folder} has no class {', '.join(sorted(unknown))}; its classes are {known}")
    return found


class _Reader:
    """Reads the blocks to trace, and turns regions into objects with their measurements."""

    def __init__(self, source: Result, labels: tuple[LabelClass, ...]) -> None:
        self._source, self._labels = source, labels
        self._code = np.zeros(256, np.uint8)
        for code, one in enumerate(labels, 1):
            self._code[one.value] = code
        order = {one.value: channel for channel, one in enumerate(source.classes)}
        self._channel = np.array([0] + [order.get(one.value, 0) for one in labels])
        self._wide_box, self._wide_codes = Box(0, 0, 0, 0), np.zeros((0, 0), np.uint8)
        self.n_values = (source.probabilities_image is not None) + (source.uncertainty_image is not None)

    def __call__(self, box: Box) -> Block | None:
        source = self._source
        if not source.mask_image.stored(source.level, box):
            return None
        if not self._wide_box.contains(box):
            self._read_wide(box)
        part = box.relative_to(self._wide_box).slices_yx
        codes = self._wide_codes[part]
        return Block(codes, self._values(codes, box)) if codes.any() else None

    def _read_wide(self, box: Box) -> None:
        """Read a box and the stored ones on its right: one large read costs far less than many small ones."""
        source, wide = self._source, box
        for _ in range(_WIDE - 1):
            right = Box(wide.x1, box.y0, wide.x1 + CHUNK_PX, box.y1).intersect(Box.of(source.geometry.size))
            if right.empty or not source.mask_image.stored(source.level, right):
                break
            wide = Box(box.x0, box.y0, right.x1, box.y1)
        self._wide_box, self._wide_codes = wide, self._code[source.mask_image.read(source.level, wide)]

    def _values(self, codes: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8] | None:
        source = self._source
        values = []
        if source.probabilities_image is not None:
            every = source.probabilities_image.read(source.level, box)
            values.append(np.take_along_axis(every, self._channel[codes][None], axis=0)[0])
        if source.uncertainty_image is not None:
            values.append(source.uncertainty_image.read(source.level, box))
        return np.stack(values) if values else None

    def objects(self, shape: Shape, frame: CoordinateFrame, pixel_um2: float) -> Iterator[SlideObject]:
        label = self._labels[shape.region.code - 1]
        probability, uncertainty = self._means(shape.region, label)
        x, y = self._source.geometry.on_slide(np.array([shape.region.first_xy], np.float64), "level0")[0].tolist()
        for number, polygon in enumerate(self._placed(shape.polygon, frame)):
            place = f"{x:.2f} {y:.2f} {shape.number} {number}"
            yield SlideObject(label, polygon, shape.area_px * pixel_um2, probability, uncertainty, place)

    def _means(self, region: LabelRegion, label: LabelClass) -> tuple[float | None, float | None]:
        if label.value == NOT_ANALYSED:
            return None, None
        means = iter((region.sums / (FULL * region.pixels)).tolist())
        probability = next(means) if self._source.probabilities_image is not None else None
        return probability, next(means) if self._source.uncertainty_image is not None else None

    def _placed(self, polygon: shapely.Polygon, frame: CoordinateFrame) -> Iterator[shapely.Polygon]:
        """Valid polygons on the slide; checked after rounding, which may make a polygon invalid."""
        geometry = self._source.geometry
        placed = shapely.transform(polygon, lambda points: np.round(geometry.on_slide(points, frame) / GRID) * GRID)
        if placed.is_valid and placed.area > 0:
            yield placed
            return
        for part in shapely.get_parts(shapely.make_valid(placed)):
            if part.geom_type == "Polygon" and part.area > GRID:
                yield part
