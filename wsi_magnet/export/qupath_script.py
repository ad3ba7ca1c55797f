"""A Groovy script that brings an export into the image open in QuPath, and the files that the script reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PureWindowsPath
from string import Template

from wsi_magnet.errors import ConfigError
from wsi_magnet.export.geojson import check_target, write_geojson
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.qupath import SAME_RESULT, FeatureStyle, object_id
from wsi_magnet.export.tiles import TileOptions, write_tiles
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import Exported, FileOptions, refuse_existing, whole

SUFFIX = ".groovy"

_SCRIPT = Template("""\
// Brings the regions that wsi-magnet found on a slide into the open image. Not for diagnosis.
// Automate > Script editor, open this file, Run. Run again, it replaces what it brought before.

// Folder of the files; if they are not there, they are looked for beside the slide.
def folder = $folder
def importTiles = false   // true: also the tiles with mean probabilities, for Measure > Show measurement maps

def result = $result

def server = getCurrentServer()
if (server == null)
    throw new RuntimeException('Open the slide first')
def files = server.getURIs().findAll { it.getScheme() == 'file' }.collect { new File(it.getPath()) }
def places = [new File(folder)] + files.collect { it.getParentFile() }
def here = server.getMetadata().getName()
$bring""")

BRING = """\

if (server.getWidth() != result.width || server.getHeight() != result.height)
    throw new RuntimeException(here + ' has ' + server.getWidth() + ' x ' + server.getHeight() + ' pixels, and the '
        + 'regions belong to an image of ' + (result.width as int) + ' x ' + (result.height as int) + ': it is another '
        + 'image, or it was opened in another frame; then export again with ' + result.other_frame)

def find = { name ->
    def file = places.collect { new File(it, name) }.find { it.exists() }
    if (file == null)
        throw new RuntimeException(name + ' is in none of ' + places + '; correct "folder" at the top of the script')
    return file
}
def toRead = (result.regions + (importTiles ? result.tiles : [])).collect { find(it) }
def objects = []
for (file in toRead)
    objects.addAll(qupath.lib.io.PathIO.readObjects(file))

// A class that the project has, in upper or lower case, is used as it is, with its colour.
def classes = [:]
if (getProject() != null)
    for (one in getProject().getPathClasses())
        if (one != null)
            classes[one.toString().toLowerCase()] = one
for (one in objects) {
    def same = classes[String.valueOf(one.getPathClass()).toLowerCase()]
    if (same != null)
        one.setPathClass(same)
}

// What was brought before has ids that begin alike, even if it was exported with other options. Regions of exports of
// version 0.1.0 are locked and have ids of UUID version 5, which QuPath itself gives to no object.
def beginnings = result.regions_ids + (importTiles ? result.tiles_ids : [])
def earlier = getAllObjects(false).findAll { one ->
    beginnings.any { one.getID().toString().startsWith(it) } || (one.getID().version() == 5 && one.isLocked())
}
if (!earlier.isEmpty())
    removeObjects(earlier, true)
addObjects(objects)

def pixel = server.getPixelCalibration()
if (!pixel.hasPixelSizeMicrons() || pixel.getAveragedPixelSizeMicrons() > 100) {
    setPixelSizeMicrons(result.mpp_x, result.mpp_y)
    println here + ': pixel size set to ' + result.mpp_x + ' x ' + result.mpp_y + ' microns, as in the run'
} else if (Math.abs(pixel.getAveragedPixelSizeMicrons() / result.mpp_x - 1) > 0.05) {
    println here + ': WARNING: one pixel has ' + pixel.getAveragedPixelSizeMicrons() + ' microns here, and ' +
        result.mpp_x + ' in the run'
}

fireHierarchyUpdate()
println here + ': ' + objects.size() + ' objects imported, ' + earlier.size() + ' earlier ones removed'
"""
"""The end of a script, which needs `server`, `places` (folders), `importTiles`, `here` (a name) and `result`."""


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """Description of a slide's result for a script."""

    slide: str
    """Path of the slide as the run had it, with slashes."""
    width: int
    height: int
    """Size of the image as QuPath opens it, in pixels."""
    other_frame: str
    """Option of the export for an image of another size."""
    mpp_x: float
    mpp_y: float
    """Microns per pixel of the slide."""
    regions: list[str]
    tiles: list[str]
    """Names of files."""
    regions_ids: list[str]
    tiles_ids: list[str]
    """Beginnings of the ids of all objects of that kind."""


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
    require_text(target)
    refuse_existing(target, overwrite=files.overwrite)
    exported, result = write_objects(source, target.with_suffix(""), objects, style, tile_options, files)
    write_script(target, _SCRIPT.substitute(folder=_folder(target), result=_literal(result), bring=BRING))
    return Exported((target, *exported.files), exported.objects, exported.notes)


def write_objects(
    source: Result,
    stem: Path,
    objects: ObjectOptions,
    style: FeatureStyle,
    tile_options: TileOptions,
    files: FileOptions,
) -> tuple[Exported, ScriptResult]:
    """Write `<stem>.geojson` and, if probabilities were kept, `<stem>.tiles.geojson`.

    Raises ConfigError and StoreError as `write_geojson` does.
    """
    regions_file, tiles_file = (stem.with_name(f"{stem.name}{end}") for end in (".geojson", ".tiles.geojson"))
    for path in (regions_file, tiles_file):
        check_target(path, files.overwrite)
    regions = write_geojson(source, regions_file, objects, style, files)
    tiles: tuple[Path, ...] = ()
    if source.probabilities_image is not None:
        tiles = write_tiles(source, tiles_file, tile_options, files).files
    geometry = source.geometry
    size = geometry.canvas if objects.frame == "qupath" else geometry.slide
    result = ScriptResult(
        slide=_with_slashes(os.fspath(source.slide_path)),
        width=size.width,
        height=size.height,
        other_frame="--frame level0" if objects.frame == "qupath" else "--frame qupath",
        mpp_x=geometry.slide_mpp_xy[0],
        mpp_y=geometry.slide_mpp_xy[1],
        regions=[path.name for path in regions.files],
        tiles=[path.name for path in tiles],
        regions_ids=[object_id(style.identity, "")[:SAME_RESULT]],
        tiles_ids=[object_id(tile_options.identity, "")[:SAME_RESULT]],
    )
    return Exported((*regions.files, *tiles), regions.objects, regions.notes), result


def _with_slashes(path: str) -> str:
    """A path with slashes if it is one of Windows; elsewhere a backslash belongs to a name."""
    return path.replace("\\", "/") if PureWindowsPath(path).drive or os.sep == "\\" else path


def require_text(target: Path) -> None:
    """Raise ConfigError for a path with bytes that are not text, which a script could not name."""
    if any("\ud800" <= letter <= "\udfff" for letter in os.fspath(target.resolve())):
        raise ConfigError(
            f"{target.resolve()} has bytes that are not text, as a script needs; choose another name with -o"
        )


def write_script(target: Path, text: str) -> None:
    """Write a script, which is ASCII, so that QuPath reads it alike on every system. Raises StoreError."""
    with whole(target) as partial:
        partial.write_text(text, encoding="ascii")


def _folder(target: Path) -> str:
    return groovy(os.fspath(target.parent.resolve()))


def _literal(result: ScriptResult) -> str:
    """A result as a Groovy map."""
    lines = (f"    {name}: {_value(value)}," for name, value in asdict(result).items())
    return "[\n" + "\n".join(lines) + "\n]"


def _value(value: str | float | Sequence[str]) -> str:
    if isinstance(value, int | float):
        return repr(value)
    return groovy(value) if isinstance(value, str) else "[" + ", ".join(map(groovy, value)) + "]"


def groovy(text: str) -> str:
    """A Groovy string literal of that text, ASCII, in single quotes, where a dollar sign has no meaning."""
    return "'" + "".join(_letter(letter) for letter in text) + "'"


_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
"""Groovy replaces \\uXXXX before it looks for the end of a string, so a line feed needs its own escape."""


def _letter(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter in _CONTROL:
        return _CONTROL[letter]
    if letter <= "~":
        return letter if letter >= " " else "?"
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
