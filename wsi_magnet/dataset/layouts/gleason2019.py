"""Gleason 2019: cores of tissue microarrays, each graded by up to six pathologists."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

from wsi_magnet.dataset.layouts.base import (
    FoundDataset,
    FoundImage,
    Layout,
    LayoutOptions,
    files_below,
    left_out,
    require,
    unique,
    without,
)
from wsi_magnet.errors import ManifestError

ABOUT = """Gleason 2019 (UBC, MICCAI): Train_imgs/slideNNN_coreNNN.jpg and Maps1_T ... Maps6_T with
slideNNN_coreNNN_classimg_nonconvex.png, nested or not. Values 0 not labelled; 1 and 6 (a known mistake for 1) benign
tissue: background, stroma or benign epithelium; 3, 4, 5 Gleason patterns. Group: the microarray (slideNNN). 0.25 µm/px
(40x) is assumed. Up to six pathologists per image: --consensus. --remove takes the list of maps with unclosed contours
(final_list_to_remove.json)."""

LABELS = "0=ignore; 1=0|1|2; 6=0|1|2; 3=3; 4=4; 5=5"
ASSUMED_MPP = 0.25

IMAGE = r"(?P<core>(?P<slide>slide\d+)_core\d+)\.jpe?g"
MAP = r"(?P<core>slide\d+_core\d+)_classimg_nonconvex\.png"
RATER = re.compile(r"maps(\d+)_t", re.IGNORECASE)

_Maps = dict[str, dict[int, Path]]
"""Maps by core and number of the pathologist."""


def find(root: Path, options: LayoutOptions) -> FoundDataset:
    """See ABOUT; cores without a map (the test set has none) are left out."""
    maps = _maps(root)
    removed = _remove(maps, options.remove) if options.remove else 0
    matches = files_below(root, IMAGE)
    images = unique((match["core"].lower(), path) for path, match in matches)
    slides = {match["core"].lower(): match["slide"].lower() for _, match in matches}
    kept = {core: tuple(by_rater[number] for number in sorted(by_rater)) for core, by_rater in maps.items() if by_rater}
    rows = [
        FoundImage(images[core], kept[core], slides[core], LABELS, ASSUMED_MPP)
        for core in sorted(images)
        if core in kept
    ]
    notes = (
        f"{ASSUMED_MPP:g} µm/px is assumed (40x); override it with --mpp",
        left_out(without(images, kept), "images without a map"),
        left_out(without(maps, images), "cores with maps but no image"),
        f"{removed} maps of the list {options.remove} are left out" if options.remove else "",
    )
    return require(rows, root, "slideNNN_coreNNN.jpg with Maps1_T ... Maps6_T/*_classimg_nonconvex.png", notes)


def _maps(root: Path) -> _Maps:
    maps: _Maps = defaultdict(dict)
    for path, match in files_below(root, MAP):
        number = _rater(path)
        if number is None:
            raise ManifestError(f"{path} is not in a folder Maps1_T ... Maps6_T, so its pathologist is unknown")
        core = match["core"].lower()
        if number in maps[core]:
            raise ManifestError(f"{path} and {maps[core][number]} are the same map; leave one copy")
        maps[core][number] = path
    return maps


def _rater(path: Path) -> int | None:
    """The pathologist's number, from the folder nearest to the file."""
    numbers = (RATER.fullmatch(parent.name) for parent in path.parents)
    return next((int(match[1]) for match in numbers if match), None)


def _remove(maps: _Maps, listed: Path) -> int:
    """Remove the maps of the list; return their number. Raises ManifestError for a file of another kind."""
    removed = 0
    for core, folders in _read_list(listed).items():
        for folder in folders:
            match = re.search(r"maps(\d+)_t", folder, re.IGNORECASE)
            if not match:
                raise ManifestError(f"{listed}: {folder!r} of {core} names no folder Maps1_T ... Maps6_T")
            removed += maps.get(Path(core).stem.lower(), {}).pop(int(match[1]), None) is not None
    return removed


def _read_list(path: Path) -> dict[str, list[str]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ManifestError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict) or not all(
        isinstance(folders, list) and all(isinstance(folder, str) for folder in folders) for folders in values.values()
    ):
        raise ManifestError(f'{path} is not a list of maps by core, {{"slide001_core001": ["Maps1_T", ...], ...}}')
    return values


LAYOUT = Layout(ABOUT, find, consensus="majority", raters=True, options=("remove",))
