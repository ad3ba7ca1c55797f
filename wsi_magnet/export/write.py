"""All kinds of export, by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from wsi_magnet._version import __version__
from wsi_magnet.errors import ConfigError
from wsi_magnet.export.geojson import write_geojson
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.qupath import FeatureStyle, Naming, ObjectType
from wsi_magnet.export.qupath_script import write_qupath_script
from wsi_magnet.export.tiles import TileOptions, write_tiles
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location
from wsi_magnet.storage.output import Exported, FileOptions

Kind = Literal["geojson", "tiles", "qupath-script", "ome-tiff", "csv", "spatialdata"]

Product = Literal["mask", "probabilities", "uncertainty"]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of all kinds of export; each kind uses those that concern it."""

    objects: ObjectOptions = field(default_factory=ObjectOptions)
    object_type: ObjectType = "annotation"
    naming: Naming = "flat"
    tile_um: float = 128
    """Side of a tile, in microns."""
    product: Product = "mask"
    """Image to write; only for the kinds that write images."""
    files: FileOptions = field(default_factory=FileOptions)


def export(folder: Location, target: Path, kind: Kind, options: ExportOptions | None = None) -> Exported:
    """Write a result folder's mask in another format.

    Raises StoreError or ResultMismatchError where the result cannot be read, StoreError where the target exists or
    cannot be written, ConfigError for options and names that do not fit.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"cannot export to {kind!r}; choose one of {', '.join(get_args(Kind))}")
    options = options or ExportOptions()
    source = Result(folder)
    if isinstance(folder, Path) and target.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{target} lies in the result folder, which belongs to the run; choose another place with -o")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    return _WRITERS[kind](source, target, options)


def _style(source: Result, options: ExportOptions) -> FeatureStyle:
    bundle = source.record.bundle
    about = {"source": f"wsi-magnet {__version__}, {bundle.name}", "frame": options.objects.frame}
    if source.running:
        about["preliminary"] = f"mask at {source.mpp:g} µm/px of a run that is not finished"
    identity = f"{source.identity} {bundle.sha256} {source.geometry.mpp:g} {options.objects}"
    return FeatureStyle(options.object_type, options.naming, identity, about)


def _geojson(source: Result, target: Path, options: ExportOptions) -> Exported:
    return write_geojson(source, target, options.objects, _style(source, options), options.files)


def _tiles(source: Result, target: Path, options: ExportOptions) -> Exported:
    return write_tiles(source, target, _tile_options(options), options.files)


def _script(source: Result, target: Path, options: ExportOptions) -> Exported:
    style = _style(source, options)
    return write_qupath_script(source, target, options.objects, style, _tile_options(options), options.files)


def _tile_options(options: ExportOptions) -> TileOptions:
    return TileOptions(options.tile_um, options.objects.frame, options.naming)


def _ome_tiff(source: Result, target: Path, options: ExportOptions) -> Exported:
    from wsi_magnet.export.ome_tiff import write_ome_tiff

    return write_ome_tiff(source, target, options.product, options.files)


def _csv(source: Result, target: Path, options: ExportOptions) -> Exported:
    from wsi_magnet.export.tables import write_csv

    return write_csv([source], target, options.files)


def _spatialdata(source: Result, target: Path, options: ExportOptions) -> Exported:
    from wsi_magnet.export.spatial import write_spatialdata

    return write_spatialdata(source, target, options.files)


_WRITERS: Mapping[str, Callable[[Result, Path, ExportOptions], Exported]] = {
    "geojson": _geojson,
    "tiles": _tiles,
    "qupath-script": _script,
    "ome-tiff": _ome_tiff,
    "csv": _csv,
    "spatialdata": _spatialdata,
}
