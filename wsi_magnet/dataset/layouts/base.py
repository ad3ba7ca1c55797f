"""What a layout finds in a folder: images with their annotations, before splits and consensus are decided."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_magnet.dataset.sample import Consensus, Split
from wsi_magnet.errors import ManifestError


@dataclass(frozen=True, slots=True)
class FoundImage:
    """One image, what is annotated on it, and what the data set says of it."""

    image: Path
    annotations: tuple[Path, ...]
    group: str
    labels: str = ""
    """The coding; see `annotations.coding`."""
    mpp: float | None = None
    """Microns per pixel; None where the image says it."""
    split: Split | None = None
    """As published; a layout gives one to all its rows or to none."""


@dataclass(frozen=True, slots=True)
class FoundDataset:
    """All rows of a data set, and what the user should know of them."""

    rows: tuple[FoundImage, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """What a user decides of a layout; most layouts look at none of it."""

    remove: Path | None = None
    """gleason2019: the list of maps that are not to be used."""
    images: str | None = None
    """folders: where the images lie, below the root."""
    masks: str | None = None
    """folders: where the annotations lie, below the root."""
    group_pattern: str | None = None
    """folders: a regular expression whose one group, searched in an image's stem, is the row's group."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A data set that can be read."""

    about: str
    """For `wsi-magnet manifest -h`: files, labels, group, split, resolution."""
    find: Callable[[Path, LayoutOptions], FoundDataset]
    """Looks through a root. Raises ManifestError where it finds nothing, saying what it looked for."""
    consensus: Consensus = "first"
    """What several annotations of an image are to each other unless the user says otherwise."""
    raters: bool = False
    """Several people annotated the same image, so that there is a consensus to choose."""
    options: tuple[str, ...] = ()
    """Fields of `LayoutOptions` that it looks at."""


def files_below(root: Path, pattern: str) -> list[tuple[Path, re.Match[str]]]:
    """Files below a folder, at any depth, whose whole name matches the regular expression, whatever its case; sorted.

    Links to folders are followed; names that begin with a dot are passed over; a folder "*.zarr" counts as a file.
    Raises ManifestError where `root` is no folder.
    """
    if not root.is_dir():
        raise ManifestError(f"{root} is not a folder; give the one into which the data set was unpacked")
    compiled = re.compile(pattern, re.IGNORECASE)
    return sorted((path, match) for path in _walk(root) if (match := compiled.fullmatch(path.name)))


def unique(paths: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Paths by name. Raises ManifestError where two have one name: a data set that was unpacked twice."""
    found: dict[str, Path] = {}
    for name, path in paths:
        if name in found:
            raise ManifestError(f"{path} and {found[name]} are both {name}; leave one copy below the folder given")
        found[name] = path
    return found


def require(rows: Sequence[FoundImage], root: Path, wanted: str, notes: Iterable[str] = ()) -> FoundDataset:
    """The rows as a found, empty notes left out. Raises ManifestError where there are no rows."""
    if not rows:
        raise ManifestError(f"{root} holds no {wanted}; give the folder into which the data set was unpacked")
    return FoundDataset(tuple(rows), tuple(note for note in notes if note))


def left_out(names: Iterable[str], what: str) -> str:
    """A note on what is left out; "" for nothing."""
    listed = sorted(names)
    if not listed:
        return ""
    shown = ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
    return f"{len(listed)} {what} left out ({shown})"


def without(have: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Names of the first that the second lacks."""
    return [name for name in have if name not in other]


def _walk(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        zarrs = [name for name in folders if name.lower().endswith(".zarr")]
        folders[:] = [] if real in seen else sorted(n for n in folders if n not in zarrs and not n.startswith("."))
        if real not in seen:
            yield from (Path(folder, name) for name in (*names, *zarrs) if not name.startswith("."))
        seen.add(real)
