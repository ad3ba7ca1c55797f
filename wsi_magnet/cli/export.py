"""`wsi-magnet export`: a result for QuPath and other programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from wsi_magnet.errors import ConfigError

KINDS = (
    "geojson",
    "tiles",
    "qupath-script",
    "qupath-project",
    "qupath-annotations",
    "ome-tiff",
    "csv",
    "roi-csv",
    "roi-geojson",
    "spatialdata",
)

_OBJECTS = ("geojson", "qupath-script", "qupath-project")
OPTIONS_OF = {
    "simplify": _OBJECTS,
    "min_area": _OBJECTS,
    "classes": _OBJECTS,
    "object_type": _OBJECTS,
    "max_vertices": _OBJECTS,
    "frame": (*_OBJECTS, "tiles", "roi-geojson"),
    "class_names": (*_OBJECTS, "tiles"),
    "split": (*_OBJECTS, "tiles", "roi-geojson"),
    "tile_um": ("tiles", "qupath-script", "qupath-project"),
    "locked": (*_OBJECTS, "tiles", "roi-geojson"),
    "product": ("ome-tiff",),
}
"""Kinds of export to which an option applies; options that are not listed apply to all."""


@click.command("export", short_help="Export a result to QuPath, OME-TIFF, tables.")
@click.argument("results", metavar="RESULT...", nargs=-1, type=click.Path())
@click.option("--to", "kind", type=click.Choice(KINDS), required=True, help="Format; see above.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="File to write; a folder with --to qupath-project.",
)
@click.option(
    "--frame",
    type=click.Choice(("qupath", "level0")),
    default="qupath",
    help="Where (0, 0) is: the corner "
    "of the image as QuPath opens it, cropped to the slide's bounds [default], or of level 0.",
)
@click.option(
    "--simplify",
    type=float,
    default=0.0,
    metavar="UM",
    help="Let outlines move by so many microns; neighbours still share their edges. [default: exact]",
)
@click.option(
    "--min-area",
    type=float,
    default=0.0,
    metavar="UM2",
    help="Leave out regions, and close holes, with a smaller area in square microns. [default: none]",
)
@click.option("--classes", metavar="NAME,...", help="Classes to export. [default: all but background]")
@click.option(
    "--class-names",
    type=click.Choice(("flat", "derived")),
    default="flat",
    help='Names of Gleason patterns: flat, "Gleason 3" [default], or derived, "Tumor: Gleason 3".',
)
@click.option(
    "--object-type",
    type=click.Choice(("annotation", "detection", "tile")),
    default="annotation",
    help="Type of QuPath's objects; detections for thousands. [default: annotation]",
)
@click.option("--max-vertices", type=int, default=5000, metavar="N", help="Cut larger polygons. [default: 5000]")
@click.option(
    "--split",
    type=click.FloatRange(min=0),
    default=100.0,
    metavar="MB",
    help="Start another file after so many megabytes; 0 = never. [default: 100]",
)
@click.option("--tile-um", type=float, default=128.0, metavar="UM", help="Side of a tile in microns. [default: 128]")
@click.option(
    "--product",
    type=click.Choice(("mask", "probabilities", "uncertainty")),
    default="mask",
    help="The image to export. [default: mask]",
)
@click.option("--locked", is_flag=True, help="Lock the objects, so that QuPath does not edit them.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.pass_context
def command(ctx: click.Context, /, results: tuple[str, ...], kind: str, output: Path, **given: Any) -> None:
    """Write the mask of RESULT, a slide's result folder, in a format of other programs.

    \b
      geojson         regions as polygons for QuPath: .geojson, .geojson.gz
      tiles           tiles of tissue with the mean probability of each class, for QuPath's measurement maps
      qupath-script   a Groovy script that brings both into the image open in QuPath
      qupath-project  a folder with the regions of many slides, of several RESULTs or a batch's folder, and a script
                      that brings them into all images of a QuPath project
      qupath-annotations  a script that writes the annotations of a QuPath project for `manifest`; needs no RESULT
      ome-tiff        an image with pyramid: QuPath, napari, ImageJ
      csv             areas by class
      roi-csv         areas by class in each region of --roi, a row a region
      roi-geojson     these regions as QuPath annotations, with the areas as measurements
      spatialdata     a SpatialData store (.zarr): the mask, and its classes as a table

    \b
      wsi-magnet export results/slide --to geojson -o slide.geojson --simplify 1 --min-area 500
      wsi-magnet export results --to qupath-project -o for-qupath --simplify 1 --min-area 500
    """
    _refuse_idle_options(ctx, kind)
    _check_number(results, kind)
    written = _export(results, output, kind, _options(given))
    for note in written.notes:
        _note(note)
    for path in written.files:
        click.echo(path)


def _check_number(results: tuple[str, ...], kind: str) -> None:
    """Raise UsageError for a number of results that does not fit the kind."""
    if kind == "qupath-annotations":
        if results:
            raise click.UsageError(f"--to {kind} needs no RESULT: its script is the same for every project")
    elif not results:
        raise click.UsageError("Missing argument 'RESULT...'.")
    elif len(results) > 1 and kind != "qupath-project":
        raise click.UsageError(f"--to {kind} takes one RESULT, not {len(results)}; only qupath-project takes several")


def _export(results: tuple[str, ...], output: Path, kind: str, options: Any) -> Any:
    from wsi_magnet.cohort.reporting import report_sources
    from wsi_magnet.export.qupath_project import write_annotations_script, write_qupath_project
    from wsi_magnet.export.write import export
    from wsi_magnet.storage.location import to_location

    if kind == "qupath-annotations":
        return write_annotations_script(output, options.files.overwrite)
    if kind == "qupath-project":
        found = report_sources(map(to_location, results))
        without = [f"{one.name} ({one.state}{one.reason and f': {one.reason}'})" for one in found.others]
        return write_qupath_project(found.results, output, options, _note, without)
    return export(to_location(results[0]), output, kind, options, _note)  # type: ignore[arg-type]


def _note(text: str) -> None:
    click.echo(f"Note: {text}", err=True)


def _refuse_idle_options(ctx: click.Context, kind: str) -> None:
    """Raise ConfigError for an option that this kind of export would ignore."""
    for name, kinds in OPTIONS_OF.items():
        if kind not in kinds and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} has no effect with --to {kind}, only with {', '.join(kinds)}")


def _options(given: dict[str, Any]) -> Any:
    from wsi_magnet.export.objects import ObjectOptions
    from wsi_magnet.export.write import ExportOptions
    from wsi_magnet.storage.output import FileOptions

    return ExportOptions(
        ObjectOptions(
            given["frame"],
            given["simplify"],
            given["min_area"],
            _class_names(given["classes"]),
            given["max_vertices"],
        ),
        given["object_type"],
        given["class_names"],
        given["tile_um"],
        given["product"],
        FileOptions(_split_bytes(given["split"]), given["overwrite"]),
        given["locked"],
    )


def _class_names(text: str | None) -> tuple[str, ...]:
    """Names of --classes; none where it is not given. Raises ConfigError for a list without a name."""
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise ConfigError(f"--classes {text!r} names no class; leave it out for all but background")
    return names


def _split_bytes(megabytes: float) -> int:
    """Bytes of --split; 0 = never. Raises ConfigError."""
    if not math.isfinite(megabytes):
        raise ConfigError(f"--split must be a number of megabytes; got {megabytes}")
    return math.ceil(megabytes * 1e6)
