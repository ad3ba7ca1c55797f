"""A Groovy script that imports an export into the image open in QuPath, and the files that the script reads."""

from __future__ import annotations

import os
from pathlib import Path
from string import Template

from wsi_magnet.errors import ConfigError
from wsi_magnet.export.geojson import check_target, write_geojson
from wsi_magnet.export.objects import ObjectOptions, chosen_classes
from wsi_magnet.export.qupath import FeatureStyle, class_names
from wsi_magnet.export.tiles import TileOptions, write_tiles
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import Exported, FileOptions, refuse_existing, whole

SUFFIX = ".groovy"

_SCRIPT = Template("""\
// Imports the regions that wsi-magnet found on $slide into the open image. Not for diagnosis.
// Automate > Script editor > open this file > Run.

// Folder of the files; if they are not there, they are looked for beside the slide.
def folder = $folder
def regions = [$regions]
def tiles = [$tiles]
def importTiles = false   // true: also the tiles with mean probabilities, for Measure > Show measurement maps

// Size of the image that they were made for, as QuPath opens it.
def expectedWidth = $width
def expectedHeight = $height

def server = getCurrentServer()
if (server == null)
    throw new RuntimeException('Open the slide first')
if (server.getWidth() != expectedWidth || server.getHeight() != expectedHeight)
    throw new RuntimeException('This image has ' + server.getWidth() + ' x ' + server.getHeight() + ' pixels, and the '
        + 'regions belong to one of ' + expectedWidth + ' x ' + expectedHeight + ': it is another slide, or it was '
        + 'opened in another frame; then export again with $other_frame')

def find = { name ->
    def here = new File(folder, name)
    if (here.exists())
        return here.getPath()
    for (uri in server.getURIs()) {
        if (uri.getScheme() == 'file') {
            def beside = new File(new File(uri).getParentFile(), name)
            if (beside.exists())
                return beside.getPath()
        }
    }
    throw new RuntimeException(name + ' is neither in ' + folder + ' nor beside the slide; correct "folder" above')
}

// A class keeps the colour that it has first in a session, so colours are set before anything is read.
$colors
for (name in regions + (importTiles ? tiles : []))
    importObjectsFromFile(find(name))

fireHierarchyUpdate()
println 'Imported ' + regions.size() + ' file(s); the hierarchy holds ' + getAllObjects(false).size() + ' objects'
""")


def write_qupath_script(
    source: Result,
    target: Path,
    objects: ObjectOptions,
    style: FeatureStyle,
    tile_options: TileOptions,
    files: FileOptions,
) -> Exported:
    """Write the script; beside it the regions, `<name>.geojson`, and `<name>.tiles.geojson` if probabilities were kept.

    Raises ConfigError and StoreError as `write_geojson` does.
    """
    if target.suffix != SUFFIX:
        raise ConfigError(f"{target} has no suffix of a QuPath script; end it in {SUFFIX}")
    if any("\ud800" <= letter <= "\udfff" for letter in os.fspath(target.resolve())):
        raise ConfigError(
            f"{target.resolve()} has bytes that are not text, as a script needs; choose another name with -o"
        )
    refuse_existing(target, overwrite=files.overwrite)
    for other in (".geojson", ".tiles.geojson"):
        check_target(target.with_suffix(other), files.overwrite)
    regions = write_geojson(source, target.with_suffix(".geojson"), objects, style, files)
    tiles: tuple[Path, ...] = ()
    if source.probabilities_image is not None:
        tiles = write_tiles(source, target.with_suffix(".tiles.geojson"), tile_options, files).files
    text = _script(source, target, objects, style, (regions.files, tiles))
    with whole(target) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")
    return Exported((target, *regions.files, *tiles), regions.objects, regions.notes)


def _script(
    source: Result,
    target: Path,
    objects: ObjectOptions,
    style: FeatureStyle,
    files: tuple[tuple[Path, ...], tuple[Path, ...]],
) -> str:
    geometry = source.geometry
    size = geometry.canvas if objects.frame == "qupath" else geometry.slide
    regions, tiles = (", ".join(groovy(path.name) for path in paths) for paths in files)
    colors = [
        f"getPathClass({groovy(': '.join(class_names(one, style.naming)))})"
        f".setColor(getColorRGB({one.color[0]}, {one.color[1]}, {one.color[2]}))"
        for one in chosen_classes(source, objects.classes)
    ]
    return _SCRIPT.substitute(
        slide="".join(letter if letter.isprintable() else "?" for letter in source.name),
        folder=groovy(os.fspath(target.parent.resolve())),
        regions=regions,
        tiles=tiles,
        width=size.width,
        height=size.height,
        other_frame="--frame level0" if objects.frame == "qupath" else "--frame qupath",
        colors="\n".join(colors) + "\n",
    )


def groovy(text: str) -> str:
    """A Groovy string literal of that text, in single quotes, where a dollar sign has no meaning."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
