"""All kinds of export, by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from wsi_magnet._version import __version__
from wsi_magnet.errors import ConfigError
from wsi_magnet.export.count import estimated_objects
from wsi_magnet.export.geojson import write_geojson
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.qupath import MANY_ANNOTATIONS, FeatureStyle, Naming, ObjectType
from wsi_magnet.export.qupath_script import write_qupath_script
from wsi_magnet.export.roi import write_roi_csv, write_roi_geojson
from wsi_magnet.export.tiles import TileOptions, write_tiles
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location
from wsi_magnet.storage.output import Exported, FileOptions, refuse_below_file

Kind = Literal["geojson", "tiles", "qupath-script", "ome-tiff", "csv", "spatialdata", "roi-csv", "roi-geojson"]

Product = Literal["mask", "probabilities", "uncertainty"]

Notify = Callable[[str], None]


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
    locked: bool = False
    """True for objects that QuPath does not let one edit."""


def export(
    folder: Location, target: Path, kind: Kind, options: ExportOptions | None = None, notify: Notify | None = None
) -> Exported:
    """Write a result folder's mask in another format.

    notify: receives notes for the user that are better known before the export than after it. Raises StoreError or
    ResultMismatchError where the result cannot be read, StoreError where the target exists or cannot be written,
    ConfigError for options and names that do not fit.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"cannot export to {kind!r}; choose one of {', '.join(get_args(Kind))}")
    options = options or ExportOptions()
    source = Result(folder)
    refuse_inside(folder, target)
    refuse_below_file(target)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    expected = 0
    if kind in ("geojson", "qupath-script"):
        expected = expect_many(source, options, notify or (lambda text: None))
    exported = _WRITERS[kind](source, target, options)
    notes = () if expected and notify else _notes_on_number(exported.objects, options)
    if kind in ("geojson", "tiles"):
        notes += _notes_on_parts(exported.files)
    return replace(exported, notes=(*exported.notes, *notes))


def refuse_inside(folder: Location, target: Path) -> None:
    """Raise ConfigError for a target inside the result folder."""
    if isinstance(folder, Path) and target.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{target} lies in the result folder, which belongs to the run; choose another place with -o")


def expect_many(source: Result, options: ExportOptions, notify: Notify) -> int:
    """Tell the user if more annotations are to be expected than QuPath handles well; their number, or 0."""
    expected = estimated_objects(source, options.objects) if options.object_type == "annotation" else 0
    if expected <= MANY_ANNOTATIONS:
        return 0
    notify(f"about {expected} annotations are to be expected, which make QuPath slow; {_CURE}")
    return expected


_CURE = "--object-type detection, --min-area or --simplify keep it quick"


def _notes_on_number(objects: int, options: ExportOptions) -> tuple[str, ...]:
    many = options.object_type == "annotation" and objects > MANY_ANNOTATIONS
    return (f"{objects} annotations make QuPath slow; {_CURE}",) if many else ()


def _notes_on_parts(files: tuple[Path, ...]) -> tuple[str, ...]:
    text = "of files dropped together QuPath reads the first only; drop one by one, or use --to qupath-script"
    return (text,) if len(files) > 1 else ()


def style_of(source: Result, options: ExportOptions) -> FeatureStyle:
    """Options that all features of a result share."""
    about = {"source": f"wsi-magnet {__version__}, {source.record.bundle.name}", "frame": options.objects.frame}
    if source.running:
        about["preliminary"] = f"mask at {source.mpp:g} µm/px of a run that is not finished"
    return FeatureStyle(options.object_type, options.naming, _identity(source, "regions"), about, options.locked)


def tile_options_of(source: Result, options: ExportOptions) -> TileOptions:
    """Options of the tiles of a result."""
    identity = _identity(source, "tiles")
    return TileOptions(options.tile_um, options.objects.frame, options.naming, identity, options.locked)


def _identity(source: Result, what: str) -> str:
    """The same for every export of a slide's result by one bundle, exact or simplified, finished or not."""
    return f"{source.identity} {source.record.bundle.sha256} {what}"


def _geojson(source: Result, target: Path, options: ExportOptions) -> Exported:
    return write_geojson(source, target, options.objects, style_of(source, options), options.files)


def _tiles(source: Result, target: Path, options: ExportOptions) -> Exported:
    return write_tiles(source, target, tile_options_of(source, options), options.files)


def _script(source: Result, target: Path, options: ExportOptions) -> Exported:
    style, tiles = style_of(source, options), tile_options_of(source, options)
    return write_qupath_script(source, target, options.objects, style, tiles, options.files)


def _ome_tiff(source: Result, target: Path, options: ExportOptions) -> Exported:
    from wsi_magnet.export.ome_tiff import write_ome_tiff

    return write_ome_tiff(source, target, options.product, options.files)


def _csv(source: Result, target: Path, options: ExportOptions) -> Exported:
    from wsi_magnet.export.tables import write_csv

    return write_csv([source], target, options.files)


def _spatialdata(source: Result, target: Path, options: ExportOptions) -> Exported:
    from wsi_magnet.export.spatial import write_spatialdata

    return write_spatialdata(source, target, options.files)


def _roi_csv(source: Result, target: Path, options: ExportOptions) -> Exported:
    return write_roi_csv(source, target, options.files)


def _roi_geojson(source: Result, target: Path, options: ExportOptions) -> Exported:
    return write_roi_geojson(source, target, options.objects, style_of(source, options), options.files)


_WRITERS: Mapping[str, Callable[[Result, Path, ExportOptions], Exported]] = {
    "geojson": _geojson,
    "tiles": _tiles,
    "qupath-script": _script,
    "ome-tiff": _ome_tiff,
    "csv": _csv,
    "spatialdata": _spatialdata,
    "roi-csv": _roi_csv,
    "roi-geojson": _roi_geojson,
}
