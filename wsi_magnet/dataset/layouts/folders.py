"""The user's own data: a folder of images and a folder of annotations, matched by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
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
from wsi_magnet.dataset.table import TableKind, read_table
from wsi_magnet.errors import ManifestError

ABOUT = """Your own: images in ROOT/img or ROOT/images and annotations in ROOT/mask, ROOT/masks or ROOT/labels
(--images and --masks name other folders), with the same name, or with _mask or _label appended: masks (PNG, TIFF,
OME-Zarr), QuPath GeoJSON, ASAP or ImageScope XML. Labels mean themselves, or what --labels defines, e.g.
"0=ignore; 1=stroma; 2=3|4|5". Group: each image, unless --groups names a CSV file with the columns image (its
name, or its path below the folder where several have one name) and group (or patient), or --group-pattern finds the
patient in its name: "^(P[0-9]+)_"."""

IMAGE_FOLDERS = ("img", "images", "imgs")
MASK_FOLDERS = ("mask", "masks", "label", "labels", "annotations")

IMAGE = r"(.+?)(?:\.ome)?\.(svs|tiff?|ndpi|png|jpe?g|mrxs|scn|bif|vms|vmu|svslide|dcm)"
ANNOTATION = r"(.+?)(?:[_-](?:mask|label)s?)?(?:\.ome)?\.(png|tiff?|geojson|json|xml|zarr)"
WHOLE_NAME = r"(.+?)(?:\.ome)?\.(png|tiff?|geojson|json|xml|zarr)"


def find(root: Path, options: LayoutOptions) -> FoundDataset:
    """See ABOUT; images without an annotation, and annotations without an image, are left out."""
    image_folder = _folder(root, options.images, IMAGE_FOLDERS, "--images")
    mask_folder = _folder(root, options.masks, MASK_FOLDERS, "--masks")
    images = _named(image_folder, IMAGE)
    masks = _named(mask_folder, ANNOTATION)
    # An image itself may be named "a_mask.jpg".
    masks |= {name: path for name, path in _named(mask_folder, WHOLE_NAME).items() if name in images}
    if options.groups and options.group_pattern:
        raise ManifestError("--groups and --group-pattern both name the groups; give one of them")
    listed = _GroupList(options.groups, image_folder, images.values()) if options.groups else None
    rows = [
        FoundImage(
            images[name],
            (masks[name],),
            _group(name, options.group_pattern) if listed is None else listed.group(images[name]),
        )
        for name in sorted(images)
        if name in masks
    ]
    used = {path for row in rows for path in row.annotations}
    notes = (
        left_out(without(images, masks), "images without an annotation"),
        left_out({path.name for path in masks.values() if path not in used}, "annotations without an image"),
        _groups_note(rows)
        if options.group_pattern or options.groups
        else "each image is its own group; --groups names a list of patients, --group-pattern finds them in names",
    )
    return require(rows, root, f"images in {image_folder} with an annotation of the same name in {mask_folder}", notes)


def _named(folder: Path, pattern: str) -> dict[str, Path]:
    """Files below a folder by relative name, reduced to the pattern's first group."""
    return unique(
        ((path.relative_to(folder).parent / match[1]).as_posix(), path) for path, match in files_below(folder, pattern)
    )


def _folder(root: Path, given: str | None, usual: tuple[str, ...], option: str) -> Path:
    if given:
        return root / given
    there = [root / name for name in usual if (root / name).is_dir()]
    if len(there) != 1:
        what = f"has {' and '.join(path.name for path in there)}" if there else f"has no folder {' or '.join(usual)}"
        raise ManifestError(f"{root} {what}; name the one to use with {option}")
    return there[0]


def _group(name: str, pattern: str | None) -> str:
    if pattern is None:
        return name
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ManifestError(f"group pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups != 1:
        raise ManifestError(f"group pattern {pattern!r} has {compiled.groups} groups in parentheses; give it one")
    match = compiled.search(name)
    if not match or not match[1]:
        raise ManifestError(
            f"group pattern {pattern!r} finds no group in {name!r}; it must match the name of each image"
        )
    return match[1]


_GROUPS = TableKind(
    ("image", "group"),
    {"slide": "image", "file": "image", "patient": "group", "case": "group"},
    ("image", "group"),
    "; one names the image, the other its patient",
)

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _ListRow:
    """An image of a list of groups."""

    line: int
    folders: tuple[str, ...]
    """Folders of its path as listed, if any."""
    group: str


class _GroupList:
    """Groups of images from a list. Raises ManifestError."""

    def __init__(self, path: Path, folder: Path, images: Collection[Path]) -> None:
        self._path, self._folder = path, folder
        self._images: dict[str, set[Path]] = {}
        for image in images:
            for name in _names(image.name):
                self._images.setdefault(name, set()).add(image)
        self._rows: dict[str, list[_ListRow]] = {}
        groups: dict[Path, str] = {}
        for line, cells in read_table(path, _GROUPS):
            listed, group = Path(cells["image"]), cells["group"]
            if not listed.name or not group:
                raise ManifestError(f"{path}, row {line}: image and group must both be given")
            if groups.setdefault(listed, group) != group:
                raise ManifestError(f"{path}, row {line}: {str(listed)!r} is in two groups; name each image once")
            for name in _names(listed.name):
                self._rows.setdefault(name, []).append(_ListRow(line, listed.parent.parts, group))

    def group(self, image: Path) -> str:
        """The group in the row that shares most folders with the image; its name alone counts where no other image has
        it. All rows that name the image must agree.
        """
        place, folders = image.relative_to(self._folder), image.parent.parts
        rows = [row for name in _names(image.name) for row in self._rows.get(name, ())]
        if not rows:
            raise ManifestError(f"{self._path} has no row for {place}; add one, or move the image away")
        most = max(_shared(row.folders, folders) for row in rows)
        best = [row for row in rows if _shared(row.folders, folders) == most]
        whole = [row for row in best if most >= len(place.parent.parts) and len(row.folders) == most]
        alike = {one for name in _names(image.name) for one in self._images[name]}
        alike = {one for one in alike if _shared(one.parent.parts, folders) >= most}
        if len(alike) > 1 and not whole:
            raise ManifestError(
                f"{self._path} has no row for {place}, and {len(alike)} images have its name; give the path of each "
                f"below {self._folder}"
            )
        chosen = (whole or best)[0]
        for row in rows:
            if row.group != chosen.group and (row in (whole or best) or self._names_it(row, image)):
                first, second = sorted((chosen, row), key=lambda one: one.line)
                raise ManifestError(
                    f"{self._path}, rows {first.line} and {second.line}: {str(place)!r} is in two groups, "
                    f"{first.group!r} and {second.group!r}; correct one of the rows, or delete it"
                )
        return chosen.group

    def _names_it(self, row: _ListRow, image: Path) -> bool:
        """True if the row's path ends as that of the image below the folder, or the other way round, and fits no other
        image better.
        """

        def fit(one: Path) -> tuple[bool, int]:
            shared = _shared(row.folders, one.parent.parts)
            whole = shared == len(row.folders) >= len(one.relative_to(self._folder).parent.parts)
            return whole, shared

        if fit(image)[1] < min(len(row.folders), len(image.relative_to(self._folder).parent.parts)):
            return False
        return fit(image) == max(fit(one) for name in _names(image.name) for one in self._images[name])


def _names(name: str) -> set[str]:
    """A file's name, with and without the suffix if that is one of an image."""
    match = re.fullmatch(IMAGE, name, re.IGNORECASE)
    return {name, match[1], name.rpartition(".")[0]} if match else {name}


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Number of folders that two paths have in common, counted from their ends."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _groups_note(rows: Sequence[FoundImage]) -> str:
    """Preview of the groups that were found: their number, and the first with an image each."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.group, row.image.name)
    shown = ", ".join(f"{group} ({image})" for group, image in list(first.items())[:_MOST_SHOWN])
    more = ", ..." if len(first) > _MOST_SHOWN else ""
    return f"{len(first)} groups in {len(rows)} images: {shown}{more}"


LAYOUT = Layout(ABOUT, find, options=("images", "masks", "group_pattern", "groups"))
