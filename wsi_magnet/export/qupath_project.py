"""Results of many slides for a QuPath project: a GeoJSON file a slide, and scripts that run over the whole project."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from string import Template

from wsi_magnet.errors import ConfigError, ResultMismatchError, StoreError
from wsi_magnet.export.qupath_script import (
    BRING,
    SUFFIX,
    ScriptResult,
    groovy,
    require_text,
    write_objects,
    write_script,
)
from wsi_magnet.export.write import ExportOptions, Notify, expect_many, refuse_inside, style_of, tile_options_of
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location
from wsi_magnet.storage.output import Exported, refuse_existing, whole
from wsi_magnet.text import counted

OBJECTS, RESULTS, IMPORT = "objects", "results.json", f"import-results{SUFFIX}"
"""Names in the folder: of the folder of GeoJSON files, of the list of results, and of the script."""

_MOST_NAMED = 5
"""Slides without a result that are named."""

_IMPORT = Template("""\
// Brings the regions that wsi-magnet found into the images of a project. Not for diagnosis.
// Automate > Script editor, open this file, Run > Run for project, choose the images. Run alone is for the open image.
// Run again, it replaces what it brought before.

// Folder of this script; if it is not there, a folder of its name in the project's folder is taken.
def folder = $folder
def importTiles = false   // true: also the tiles with mean probabilities, for Measure > Show measurement maps

def server = getCurrentServer()
if (server == null)
    throw new RuntimeException('Open a slide first, or use Run > Run for project')
def home = new File(folder)
if (!home.exists() && getProject() != null)
    home = new File(qupath.lib.projects.Projects.getBaseDirectory(getProject()), home.getName())
if (!home.exists())
    throw new RuntimeException(folder + ' is not there; correct "folder" at the top of the script')
def places = [new File(home, '$objects')]
def results = qupath.lib.io.GsonTools.getInstance().fromJson(new File(home, '$results').getText('UTF-8'), List)

// An image's result is that of the file of the same name; of several, the one whose folders have the same names too.
def partsOf = { text ->
    java.text.Normalizer.normalize(text, java.text.Normalizer.Form.NFC).toLowerCase().tokenize('/')
}
def images = server.getURIs().collect { partsOf(String.valueOf(it.getPath())) }.findAll { !it.isEmpty() }
def likeness = { one ->
    def parts = partsOf(one.slide)
    def most = 0
    for (image in images) {
        def same = 0
        while (same < Math.min(parts.size(), image.size()) && parts[-1 - same] == image[-1 - same])
            same++
        most = Math.max(most, same)
    }
    return most
}
def here = getProjectEntry() == null ? server.getMetadata().getName() : getProjectEntry().getImageName()
def named = results.findAll { likeness(it) > 0 }
if (named.isEmpty()) {
    println here + ': no result'
    return
}
def fitting = named.findAll { it.width == server.getWidth() && it.height == server.getHeight() }
def most = fitting.isEmpty() ? 0 : fitting.collect { likeness(it) }.max()
def best = fitting.isEmpty() ? named : fitting.findAll { likeness(it) == most }
if (!fitting.isEmpty() && best.size() > 1)
    throw new RuntimeException(here + ' may be any of ' + best.collect { it.slide } + '; leave only one in $results')
def result = best[0]
$bring""")

ANNOTATIONS = """\
// Writes the annotations of all images of the open project as GeoJSON files, to train on with wsi-magnet.
// Automate > Script editor, open this file, Run: once, and not "Run for project".

// Folder to write; empty: the folder "annotations" in the project's folder.
def folder = ''

def project = getProject()
if (project == null)
    throw new RuntimeException('Open the project first')
def base = qupath.lib.projects.Projects.getBaseDirectory(project)
def target = folder.isEmpty() ? new File(base, 'annotations') : new File(folder)

// Each file is named as its image, below the folder that holds all images.
def places = [:]
for (entry in project.getImageList()) {
    def uris = entry.getURIs()
    if (!uris.isEmpty())
        places[entry.getID()] = String.valueOf(uris.iterator().next().getPath()).tokenize('/')
}
def common = null
for (parts in places.values()) {
    def folders = parts.size() > 1 ? parts[0..-2] : []
    if (common == null)
        common = folders
    def same = 0
    while (same < Math.min(common.size(), folders.size()) && common[same] == folders[same])
        same++
    common = common.take(same)
}

def current = getProjectEntry()
def written = [] as Set
def without = 0
def problems = []
for (entry in project.getImageList()) {
    try {
        def open = current != null && current.getID() == entry.getID()
        def hierarchy = open ? getCurrentHierarchy() : entry.readHierarchy()
        def annotations = hierarchy.getAnnotationObjects()
        def parts = places[entry.getID()]
        if (parts == null || parts.isEmpty())
            parts = [entry.getImageName()]
        def name = parts.drop(Math.min(common == null ? 0 : common.size(), parts.size() - 1)).join('/')
        def file = new File(target, name.replaceFirst('(?i)(\\\\.ome)?\\\\.[^./]+\\\\z', '') + '.geojson')
        if (annotations.isEmpty()) {
            without++
            if (file.exists() && !written.contains(file))
                problems << name + ' has no annotations now; delete ' + file.getPath() + ' of an earlier export'
        } else if (!written.add(file)) {
            problems << name + ' was not written: another image of the project has the same name'
        } else {
            file.getParentFile().mkdirs()
            exportObjectsToGeoJson(annotations, file.getPath(), 'FEATURE_COLLECTION')
        }
    } catch (Exception e) {
        problems << entry.getImageName() + ' was not written: ' + e
    }
}

for (line in problems)
    println 'WARNING: ' + line
println 'Annotations of ' + written.size() + ' images written to ' + target.getPath()
println without + ' images without annotations left out, ' + problems.size() + ' warnings'
def windows = common != null && !common.isEmpty() && common[0].endsWith(':')
def images = (windows ? '' : '/') + (common == null ? [] : common).join('/')
println 'Next: wsi-magnet manifest folders "' + images + '" --images . --masks "' + target.getAbsolutePath() +
    '" -o manifest.csv'
"""
"""The script for annotations, the same for every project."""


def write_qupath_project(
    folders: Sequence[Location],
    target: Path,
    options: ExportOptions,
    notify: Notify = lambda text: None,
    without: Sequence[str] = (),
) -> Exported:
    """Write the regions of results, with tiles where probabilities were kept, and a script that brings those of each
    image into a project: "import-results.groovy", "results.json" and the folder "objects".

    folders: one that is named twice counts once. notify: receives notes and a line for each slide. Raises ConfigError
    and StoreError as `export` does. Results that cannot be read are left out, and named by the StoreError that is
    raised once the others are written; without: other slides that it names, each with its reason.
    """
    if not folders:
        raise ConfigError(f"no results to write into {target}: the folder has none yet")
    require_text(target)
    folders = list({folder.resolve(): folder for folder in folders}.values())
    for folder in folders:
        refuse_inside(folder, target)
    for name in (IMPORT, RESULTS):
        refuse_existing(target / name, overwrite=options.files.overwrite)
    with storage_errors(target):
        (target / OBJECTS).mkdir(parents=True, exist_ok=True)
    names = _names(folders)
    found: list[ScriptResult] = []
    files: list[Path] = []
    missing = list(without)
    notes: list[str] = []
    count = 0
    for number, (folder, name) in enumerate(zip(folders, names, strict=True), 1):
        notify(f"{number} of {len(folders)}: {name}")
        try:
            source = Result(folder)
            expect_many(source, options, notify)
            exported, result = write_objects(
                source,
                target / OBJECTS / name,
                options.objects,
                style_of(source, options),
                tile_options_of(source, options),
                options.files,
            )
        except (ResultMismatchError, StoreError) as error:
            missing.append(f"{name} ({error})")
            continue
        found.append(result)
        files += exported.files
        notes += [f"{name}: {note}" for note in exported.notes]
        count += exported.objects
    _write_results(target / RESULTS, found)
    place = groovy(os.fspath(target.resolve()))
    write_script(target / IMPORT, _IMPORT.substitute(folder=place, objects=OBJECTS, results=RESULTS, bring=BRING))
    if missing:
        shown = "; ".join(missing[:_MOST_NAMED])
        more = f"; and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise StoreError(
            f"{len(missing)} of {counted(len(folders) + len(without), 'slide')} are not in {target}: {shown}{more}; "
            "once they have results, export again with --overwrite"
        )
    return Exported((target / IMPORT, target / RESULTS, *files), count, tuple(notes))


def write_annotations_script(target: Path, overwrite: bool) -> Exported:
    """Write the script that takes the annotations out of a project. Raises ConfigError and StoreError."""
    refuse_existing(target, overwrite=overwrite)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_script(target, ANNOTATIONS)
    return Exported((target,), 0)


def _write_results(target: Path, results: Sequence[ScriptResult]) -> None:
    with whole(target) as partial:
        partial.write_text(json.dumps([asdict(one) for one in results], indent=1), encoding="ascii")


def _names(folders: Sequence[Location]) -> list[str]:
    """A name for each result, that of its folder; with a number where two folders have the same."""
    names: dict[str, str] = {}  # by what a file system that ignores case makes of it
    for folder in folders:
        name, number = folder.name, 1
        while name.lower() in names:
            number += 1
            name = f"{folder.name}~{number}"
        names[name.lower()] = name
    return list(names.values())
