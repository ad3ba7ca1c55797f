"""SpatialData store of a result: the mask as labels on every scale, its classes as a table that annotates them.

Written from the format's description, container version 0.2 (Zarr v3), and not with the library `spatialdata`, whose
releases require an older Dask than this program does. The table is AnnData on disk, version 0.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsi_magnet._version import __version__
from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.labels import NOT_ANALYSED, LabelClass, with_reserved
from wsi_magnet.results import ngff
from wsi_magnet.results.pyramid import Pyramid, read_attributes, write_group, write_values
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import Exported, FileOptions, refuse_existing, whole

SUFFIX = ".zarr"

LABELS, TABLE = "mask", "classes"
"""Names of the two elements."""

_CONTAINER, _RASTER, _TABLE = "0.2", "0.3", "0.2"
"""Versions of the store and of its elements, as SpatialData counts them; they belong together."""

_OME = "0.5-dev-spatialdata"
"""SpatialData's name of OME-Zarr 0.5 with its own transformations."""

_REGION_KEY, _INSTANCE_KEY = "region", "instance_id"


def write_spatialdata(source: Result, target: Path, files: FileOptions) -> Exported:
    """Write labels "mask", in the coordinate systems "global" (level-0 pixels of the whole slide) and "microns", and a
    table "classes" with one row for each label: name, colour, area in mm².

    Raises ConfigError for another suffix, StoreError where something cannot be read or written, or the
    target exists.
    """
    if target.suffix.lower() != SUFFIX:
        raise ConfigError(f"{target} is not a name for a SpatialData store; end it in {SUFFIX}")
    _refuse(target, files)
    with whole(target) as partial:
        _write(source, partial)
    return Exported((target,), 0, source.unfinished)


def _refuse(target: Path, files: FileOptions) -> None:
    """Raise StoreError where the target must not be replaced: only a SpatialData store is ever deleted for another."""
    refuse_existing(target, overwrite=files.overwrite)
    if target.exists() and (not target.is_dir() or "spatialdata_attrs" not in read_attributes(target)):
        raise StoreError(f"{target} is not a SpatialData store and is not replaced by one; choose another name with -o")


def _write(source: Result, root: Path) -> None:
    about = {"version": _CONTAINER, "spatialdata_software_version": f"wsi-magnet {__version__}"}
    origin = {
        "slide": source.name,
        "slide_identity": source.identity,
        "bundle": source.record.bundle.name,
        "mpp": source.geometry.mpp,
        "state": source.state,
        "version": source.record.program_version,
    }
    write_group(root, {"spatialdata_attrs": about, "wsi-magnet": origin})
    write_group(root / "labels", {"ome": {"version": _OME, "labels": [LABELS]}})
    _write_labels(source, root / "labels" / LABELS)
    write_group(root / "tables", {})
    _write_table(source, root / "tables" / TABLE)


def _write_labels(source: Result, path: Path) -> None:
    """Copy the mask's own levels, tile by tile; tiles that were never written are left out."""
    mask = source.mask_image
    spec = replace(mask.spec, path=path, sizes=mask.spec.sizes[source.level :], ngff="0.5")
    copy = Pyramid(spec)
    path.mkdir()
    copy.create()
    for level in source.levels:
        mask.require(level)
        for box in source.blocks(level, spec.tile_px):
            if mask.stored(level, box):
                copy.write(level - source.level, box, mask.read(level, box))
    copy.describe(_describe_labels(source, len(spec.sizes)))


def _describe_labels(source: Result, levels: int) -> dict[str, Any]:
    datasets = [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [2.0**i, 2.0**i]}]}
        for i in range(levels)
    ]
    placed = source.geometry
    x, y = placed.bounds_xy
    across, down = placed.slide_mpp_xy
    transformations = [
        _transformation("global", placed.downsample_xy, (x, y)),
        _transformation("microns", (placed.mpp, placed.mpp), (x * across, y * down)),
    ]
    scales = {"name": LABELS, "axes": _axes(), "datasets": datasets, "coordinateTransformations": transformations}
    label = ngff.image_label(with_reserved(source.classes), "0.5")
    ome = {"version": _OME, "multiscales": [scales], "image-label": label}
    return {"ome": ome, "spatialdata_attrs": {"version": _RASTER}}


def _transformation(name: str, scale_xy: tuple[float, float], origin_xy: tuple[float, float]) -> dict[str, Any]:
    """Transformation from the finest level's pixels, whose corners are whole numbers, into a coordinate system."""
    (scale_x, scale_y), (x, y) = scale_xy, origin_xy
    return {
        "type": "affine",
        "affine": [[scale_y, 0.0, float(y)], [0.0, scale_x, float(x)]],
        "input": {"name": "yx", "axes": _axes()},
        "output": {"name": name, "axes": _axes()},
    }


def _axes() -> list[dict[str, str]]:
    return [{"name": name, "type": "space", "unit": "unit"} for name in ("y", "x")]


def _write_table(source: Result, path: Path) -> None:
    """Write an AnnData table: one row for each label; `X` holds the areas."""
    labels = [c for c in with_reserved(source.classes) if c.value != 0]
    keys = {"region": LABELS, "region_key": _REGION_KEY, "instance_key": _INSTANCE_KEY}
    about = {"spatialdata-encoding-type": "ngff:regions_table", **keys, "version": _TABLE}
    write_group(path, {**_encoding("anndata", "0.1.0"), **about})
    write_values(path / "X", _areas(source, labels)[:, None], _encoding("array", "0.2.0"))
    columns: dict[str, list[str] | np.ndarray[Any, Any]] = {
        "name": [c.name for c in labels],
        "color": ["#{:02X}{:02X}{:02X}".format(*c.color) for c in labels],
        _INSTANCE_KEY: np.array([c.value for c in labels], np.int64),
    }
    _write_frame(path / "obs", [str(c.value) for c in labels], columns, _REGION_KEY)
    _write_categories(path / "obs" / _REGION_KEY, LABELS, len(labels))
    _write_frame(path / "var", ["area_mm2"], {})
    for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
        write_group(path / name, _encoding("dict", "0.1.0"))
    write_group(path / "uns" / "spatialdata_attrs", _encoding("dict", "0.1.0"))
    for name, text in keys.items():
        write_values(path / "uns" / "spatialdata_attrs" / name, text, _encoding("string", "0.2.0"))


def _areas(source: Result, labels: Sequence[LabelClass]) -> np.ndarray[Any, np.dtype[np.float64]]:
    areas = {one.value: one.area_mm2 for one in source.areas.values()} | {NOT_ANALYSED: source.not_analysed_mm2}
    return np.array([areas[c.value] for c in labels], np.float64)


def _write_frame(path: Path, index: list[str], columns: Mapping[str, Any], *further: str) -> None:
    """Write a data frame; the caller writes the `further` columns."""
    order = [*columns, *further]
    write_group(path, {**_encoding("dataframe", "0.2.0"), "_index": "_index", "column-order": order})
    for name, values in {"_index": index, **columns}.items():
        kind = "array" if isinstance(values, np.ndarray) else "string-array"
        write_values(path / name, values, _encoding(kind, "0.2.0"))


def _write_categories(path: Path, name: str, rows: int) -> None:
    """Write a categorical column with a single category."""
    write_group(path, {**_encoding("categorical", "0.2.0"), "ordered": False})
    write_values(path / "categories", [name], _encoding("string-array", "0.2.0"))
    write_values(path / "codes", np.zeros(rows, np.int8), _encoding("array", "0.2.0"))


def _encoding(kind: str, version: str) -> dict[str, Any]:
    return {"encoding-type": kind, "encoding-version": version}
