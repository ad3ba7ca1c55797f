"""Interface and helpers of layouts, which find images and their annotations in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_magnet.dataset.sample import Consensus, Split
from wsi_magnet.errors import ManifestError
from wsi_magnet.storage.walk import walk


@dataclass(frozen=True, slots=True)
class FoundImage:
    """One image with its annotations and the data set's information about it."""

    image: Path
    annotations: tuple[Path, ...]
    group: str
    labels: str = ""
    """The coding; see `annotations.coding`."""
    mpp: float | None = None
    """Microns per pixel; None if the image states it."""
    split: Split | None = None
    """The published split; a layout sets it in all rows or in none."""


@dataclass(frozen=True, slots=True)
class FoundDataset:
    """All rows of a data set, and notes for the user."""

    rows: tuple[FoundImage, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """User options of particular layouts."""

    remove: Path | None = None
    """gleason2019: list of maps to leave out."""
    images: str | None = None
    """folders: folder of the images, below the root."""
    masks: str | None = None
    """folders: folder of the annotations, below the root."""
    group_pattern: str | None = None
    """folders: a regular expression whose one group, searched in an image's stem, is the row's group."""
    groups: Path | None = None
    """folders: a CSV file whose columns image and group name the group of each image."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A known data set."""

    about: str
    """Text for `wsi-magnet manifest -h`: files, labels, group, split, resolution."""
    find: Callable[[Path, LayoutOptions], FoundDataset]
    """Searches a root. Raises ManifestError, naming the expected files, if it finds none."""
    consensus: Consensus = "first"
    """Default consensus of several annotations of an image."""
    raters: bool = False
    """True if several people annotated the same image, so that the user may choose a consensus."""
    options: tuple[str, ...] = ()
    """Fields of `LayoutOptions` that it uses."""


def files_below(root: Path, pattern: str) -> list[tuple[Path, re.Match[str]]]:
    """Files below a folder, at any depth, whose whole name matches the regular expression, ignoring case; sorted.

    Links to folders are followed, each real folder once; names that start with a dot are skipped; a folder "*.zarr"
    counts as a file. Raises ManifestError if `root` is not a folder.
    """
    if not root.is_dir():
        raise ManifestError(f"{root} is not a folder; give the one into which the data set was unpacked")
    compiled = re.compile(pattern, re.IGNORECASE)
    entries = walk(root, enter=lambda folder: folder.suffix.lower() != ".zarr")
    paths = [entry.path for entry in entries if entry.kind != "folder"]
    return sorted((path, match) for path in paths if (match := compiled.fullmatch(path.name)))


def unique(paths: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Paths by name. Raises ManifestError for a repeated name, as when a data set was unpacked twice."""
    found: dict[str, Path] = {}
    for name, path in paths:
        if name in found:
            raise ManifestError(f"{path} and {found[name]} are both {name}; keep one copy below the given folder")
        found[name] = path
    return found


def require(rows: Sequence[FoundImage], root: Path, wanted: str, notes: Iterable[str] = ()) -> FoundDataset:
    """The rows as a data set, without empty notes. Raises ManifestError without rows."""
    if not rows:
        raise ManifestError(f"{root} holds no {wanted}; give the folder into which the data set was unpacked")
    return FoundDataset(tuple(rows), tuple(note for note in notes if note))


def left_out(names: Iterable[str], what: str) -> str:
    """Note about items left out; "" for none."""
    listed = sorted(names)
    if not listed:
        return ""
    shown = ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
    return f"{len(listed)} {what} left out ({shown})"


def without(have: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Names of the first mapping that are missing in the second."""
    return [name for name in have if name not in other]
