"""`wsi-magnet export`: a result for QuPath and other programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from wsi_magnet.errors import ConfigError

KINDS = ("geojson", "tiles", "qupath-script", "ome-tiff", "csv", "spatialdata")

_OBJECTS = ("geojson", "qupath-script")
OPTIONS_OF = {
    "simplify": _OBJECTS,
    "min_area": _OBJECTS,
    "classes": _OBJECTS,
    "object_type": _OBJECTS,
    "max_vertices": _OBJECTS,
    "frame": (*_OBJECTS, "tiles"),
    "class_names": (*_OBJECTS, "tiles"),
    "split": (*_OBJECTS, "tiles"),
    "tile_um": ("tiles", "qupath-script"),
    "product": ("ome-tiff",),
}
"""Kinds of export to which an option applies; options that are not listed apply to all."""


@click.command("export", short_help="Export a result to QuPath, OME-TIFF, tables.")
@click.argument("result", type=click.Path())
@click.option("--to", "kind", type=click.Choice(KINDS), required=True, help="Format; see above.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="File to write.")
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
@click.option("--classes", metavar="NAME,...", default="", help="Only these. [default: all but background]")
@click.option(
    "--class-names",
    type=click.Choice(("flat", "derived")),
    default="flat",
    help='"Gleason 3" [default], or "Tumor: Gleason 3".',
)
@click.option(
    "--object-type",
    type=click.Choice(("annotation", "detection", "tile")),
    default="annotation",
    help="Type of QuPath's objects; detections for thousands. [default: annotation]",
)
@click.option("--max-vertices", type=int, default=5000, metavar="N", help="Cut polygons with more. [default: 5000]")
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
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.pass_context
def command(ctx: click.Context, /, result: str, kind: str, output: Path, **given: Any) -> None:
    """Write the mask of RESULT, a slide's result folder, in a format of other programs.

    \b
      geojson        regions as polygons for QuPath: .geojson, .geojson.gz
      tiles          tiles of tissue with the mean probability of each class, for QuPath's measurement maps
      qupath-script  a Groovy script that imports both into the image open in QuPath, and sets colours
      ome-tiff       an image with pyramid: QuPath, napari, ImageJ
      csv            areas by class
      spatialdata    a SpatialData store (.zarr): the mask, and its classes as a table

    \b
      wsi-magnet export results/slide --to geojson -o slide.geojson
      wsi-magnet export results/slide --to geojson -o slide.geojson --simplify 2 --min-area 500
    """
    _refuse_idle_options(ctx, kind)
    from wsi_magnet.export.write import export
    from wsi_magnet.storage.location import to_location

    written = export(to_location(result), output, kind, _options(given))  # type: ignore[arg-type]
    for note in written.notes:
        click.echo(f"Note: {note}", err=True)
    for path in written.files:
        click.echo(path)


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
            tuple(name.strip() for name in given["classes"].split(",") if name.strip()),
            given["max_vertices"],
        ),
        given["object_type"],
        given["class_names"],
        given["tile_um"],
        given["product"],
        FileOptions(_split_bytes(given["split"]), given["overwrite"]),
    )


def _split_bytes(megabytes: float) -> int:
    """Bytes of --split; 0 = never. Raises ConfigError."""
    if not math.isfinite(megabytes):
        raise ConfigError(f"--split must be a number of megabytes; got {megabytes}")
    return math.ceil(megabytes * 1e6)
