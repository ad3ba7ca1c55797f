"""Areas of a run from the user's files: drawn regions of other programs, and label images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_magnet.annotations.label_image import LabelImage
from wsi_magnet.annotations.labels import NOTHING
from wsi_magnet.annotations.registry import open_label_image, read_drawn
from wsi_magnet.annotations.shapes import UNCLASSIFIED, Drawn
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import AnnotationError, ConfigError
from wsi_magnet.export.polygonize.polygons import polygon_of
from wsi_magnet.export.polygonize.regions import Block, Tracing, trace
from wsi_magnet.geometry import Box
from wsi_magnet.planning.areas import Area, Areas
from wsi_magnet.slides.types import SlideInfo

MOST_VALUES = 126
"""Values of a label image that can be outlined at once."""


def read_areas(config: RunConfig, info: SlideInfo) -> Areas | None:
    """Areas of the files that a configuration names; None where it names none.

    Raises AnnotationError, naming the file, for one that cannot be read or does not fit the slide, and ConfigError
    where nothing is left to analyse.
    """
    if not config.area_files:
        return None
    regions = _areas_of(config.roi, info, config.roi_classes)
    areas = Areas(
        regions,
        _areas_of(config.exclude, info, ()),
        None if config.tissue_mask is None else _areas_of(config.tissue_mask, info, ()),
    )
    if areas.regions and areas.excluded:
        outside = shapely.union_all([one.outline for one in areas.excluded])
        if all(outside.covers(one.outline) for one in areas.regions):
            raise ConfigError(f"exclude {config.exclude} covers all of roi {config.roi}", arguments=("exclude", "roi"))
    return areas


def _areas_of(path: str | None, info: SlideInfo, classes: Sequence[str]) -> tuple[Area, ...]:
    if path is None:
        return ()
    drawn = _drawn_of(Path(path), info)
    chosen = list(_chosen(drawn, path, classes))
    canvas = shapely.box(0, 0, *info.canvas.wh)
    there = [one for one in chosen if one.region.intersects(canvas) and one.region.area > 0]
    if not there:
        raise AnnotationError(
            f"{path}: none of its regions ({len(chosen)}) lies on the slide's {info.canvas} pixels; are they of "
            "another slide?"
        )
    return tuple(_named(there))


def _drawn_of(path: Path, info: SlideInfo) -> Sequence[Drawn]:
    image = open_label_image(path, info)
    if image is None:
        return read_drawn(path, info)
    with closing(image):
        return list(_traced(image))


def _chosen(drawn: Sequence[Drawn], path: str, classes: Sequence[str]) -> Iterator[Drawn]:
    """Regions of the classes; all without any. Raises ConfigError for a class that none has."""
    wanted = {name.strip().lower() for name in classes}
    labels = {one.label.lower() for one in drawn} | {one.name.lower() for one in drawn if one.name}
    if missing := sorted(wanted - labels):
        there = ", ".join(sorted({one.label for one in drawn})) or "no region"
        raise ConfigError(f"roi_classes {missing[0]!r}: {path} has {there}", arguments=("roi_classes",))
    return (one for one in drawn if not wanted or {one.label.lower(), one.name.lower()} & wanted)


def _named(drawn: Sequence[Drawn]) -> Iterator[Area]:
    """Areas with names of their own: the file's, else the class, else "Region"; numbered where several share it."""
    kinds = ["" if one.label in (UNCLASSIFIED, one.name) else one.label for one in drawn]
    names = [one.name or kind or "Region" for one, kind in zip(drawn, kinds, strict=True)]
    shared, seen = Counter(names), Counter[str]()
    for one, name, kind in zip(drawn, names, kinds, strict=True):
        seen[name] += 1
        yield Area(f"{name} {seen[name]}" if shared[name] > 1 else name, kind, one.region)


def _traced(image: LabelImage) -> Iterator[Drawn]:
    """Outlines of the values of a label image but 0, along the edges of its pixels."""
    values = image.values() - {0, NOTHING}
    if len(values) > MOST_VALUES:
        raise AnnotationError(
            f"{image.path} has {len(values)} values, more than the {MOST_VALUES} that can be outlined"
        )
    ordered = sorted(values)
    table = np.array(ordered, np.int64)
    parts: dict[int, list[BaseGeometry]] = {value: [] for value in ordered}

    def read(box: Box) -> Block | None:
        codes = image.stored_codes(box)
        places = np.minimum(np.searchsorted(table, codes), len(table) - 1)
        found = np.where(table[places] == codes, places + 1, 0).astype(np.uint8)
        return Block(found) if found.any() else None

    if ordered:
        for region in trace(Tracing(image.size, read)):
            parts[ordered[region.code - 1]].append(polygon_of(region.rings))
    for value, polygons in parts.items():
        if polygons:
            yield Drawn(f"value {value}", str(value), image.on_canvas(shapely.union_all(polygons)))
