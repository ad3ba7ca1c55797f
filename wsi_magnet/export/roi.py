"""The regions of `--roi` with the areas of the classes in each: a CSV table, and annotations for QuPath."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from wsi_magnet.errors import ConfigError
from wsi_magnet.export.geojson import describe, write_features
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.qupath import CLASSIFIER, FeatureStyle, built_in, class_name, object_id
from wsi_magnet.export.tables import area_cell, percent_cell, write_table
from wsi_magnet.labels import LabelClass
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import Exported, FileOptions

COLUMNS = ("slide", "slide_identity", "bundle", "state", "region", "region_class", "region_mm2")
"""Columns before those of the classes, of which each has its area in mm² and its share of all classes' in percent."""

_COLOUR = (255, 200, 0)
"""Colour of classes of regions, which label files have or QuPath gives, and a result does not know."""


def write_roi_csv(source: Result, target: Path, files: FileOptions) -> Exported:
    """Write a row for each region: its area, and the areas and shares of the classes in it (RFC 4180, UTF-8).

    Raises ConfigError for another suffix and for a result without regions, StoreError.
    """
    regions = _regions_of(source)
    classes = [one["name"] for one in regions[0]["classes"]]
    shares = [f"{name} {unit}" for name in classes for unit in ("mm2", "percent")]
    columns = (*COLUMNS, *shares, "analysed_mm2", "not_analysed_mm2", "gleason_score", "isup_grade_group")
    write_table(target, columns, (_row(source, one) for one in regions), files)
    return Exported((target,), len(regions), ())


def write_roi_geojson(
    source: Result, target: Path, objects: ObjectOptions, style: FeatureStyle, files: FileOptions
) -> Exported:
    """Write the regions as QuPath annotations whose measurements are the areas and shares of the classes.

    Raises ConfigError for a name that QuPath would ignore and for a result without regions, StoreError.
    """
    regions = _regions_of(source)
    outlines = [one.outline for one in ResultFolder(source.folder).read_areas().regions]
    if len(outlines) != len(regions):
        raise ConfigError(f"{source.folder} has {len(regions)} regions and {len(outlines)} outlines; run it again")
    shift = np.array(source.geometry.bounds_xy if objects.frame == "level0" else (0, 0), np.float64)
    labels = {one.name: one for one in source.classes}
    features = (
        _feature(region, shapely.transform(outline, lambda points: points + shift), index, style, labels)
        for index, (region, outline) in enumerate(zip(regions, outlines, strict=True))
    )
    return write_features(features, target, describe(source, objects), files)


def _regions_of(source: Result) -> Sequence[Mapping[str, Any]]:
    regions: Sequence[Mapping[str, Any]] = source.summary.get("regions") or ()
    if not regions:
        why = "is not finished, and its regions are counted at the end" if source.running else "was made without --roi"
        raise ConfigError(f"{source.folder} {why}; --to csv has the areas of the slide")
    return regions


def _row(source: Result, region: Mapping[str, Any]) -> dict[str, Any]:
    shares = {}
    for one in region["classes"]:
        shares[f"{one['name']} mm2"] = area_cell(one["area_mm2"])
        shares[f"{one['name']} percent"] = percent_cell(one["percent"])
    grade = region["gleason"] or {}
    return {
        "slide": source.name,
        "slide_identity": source.identity,
        "bundle": source.record.bundle.name,
        "state": source.state,
        "region": region["name"],
        "region_class": region["class"],
        "region_mm2": area_cell(region["region_mm2"]),
        **shares,
        "analysed_mm2": area_cell(region["analysed_mm2"]),
        "not_analysed_mm2": area_cell(region["not_analysed_mm2"]),
        "gleason_score": grade.get("score", ""),
        "isup_grade_group": grade.get("grade_group", ""),
    }


def _feature(
    region: Mapping[str, Any], outline: Any, index: int, style: FeatureStyle, labels: Mapping[str, LabelClass]
) -> dict[str, Any]:
    kind, parts = region["class"], shapely.get_parts(outline)
    classification = {"classification": {"name": built_in(kind), "color": list(_COLOUR)}} if kind else {}
    return {
        "type": "Feature",
        "id": object_id(f"{style.identity} roi", str(index)),
        "geometry": shapely.geometry.mapping(parts[0] if len(parts) == 1 else outline),
        "properties": {
            "objectType": "annotation",
            "name": region["name"],
            **classification,
            **({"isLocked": True} if style.locked else {}),
            "measurements": dict(_measurements(region, labels)),
            **({"metadata": dict(style.metadata)} if style.metadata else {}),
        },
    }


def _measurements(region: Mapping[str, Any], labels: Mapping[str, LabelClass]) -> Iterator[tuple[str, float]]:
    yield f"{CLASSIFIER}: region area µm^2", round(1e6 * region["region_mm2"], 3)
    for one in region["classes"]:
        label = labels.get(one["name"])
        name = one["name"] if label is None else class_name(label)
        yield f"{CLASSIFIER}: {name} area µm^2", round(1e6 * one["area_mm2"], 3)
        yield f"{CLASSIFIER}: {name} %", round(one["percent"], 4)
    if region["not_analysed_mm2"]:
        yield f"{CLASSIFIER}: not analysed area µm^2", round(1e6 * region["not_analysed_mm2"], 3)
