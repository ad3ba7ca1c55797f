"""Discovery of slides: from slides, folders, patterns and lists that a user names to each slide once, in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import filter as matching
from glob import has_magic
from pathlib import Path

from wsi_magnet.cohort.paths import holds_results
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.dataset.table import Cells, TableKind, read_table
from wsi_magnet.errors import CohortError, ConfigError, ManifestError
from wsi_magnet.slides.mpp import check_mpp
from wsi_magnet.slides.multi_file import dicom_series, named_by_hamamatsu
from wsi_magnet.storage.location import Location, Url, to_location
from wsi_magnet.storage.walk import walk
from wsi_magnet.text import counted
from wsi_magnet.values import check, documented

SLIDE_SUFFIXES = frozenset(
    {".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu"}
)
"""Suffixes of slides in a folder."""

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
"""Suffixes of files that may be slides but are more often other pictures: only if named, or matched by a pattern."""

LIST = TableKind(
    columns=("slide", "mpp", "bundle", "name", "roi"),
    aliases={"image": "slide"},
    required=("slide",),
)
"""Columns of a list. A manifest of annotated images, with its column "image", is a list too."""


@documented
@dataclass(frozen=True, slots=True)
class FoundSlides:
    """The slides of a cohort, and notes for the user."""

    slides: tuple[CohortSlide, ...]
    """In the order of the sources; those of a folder by path."""
    notes: tuple[str, ...]
    """Sources without slides, and folders that cannot be read."""


def find_slides(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | Url
) -> FoundSlides:
    """Find the slides that `sources` name: one or several slides, folders with all below them, patterns, CSV files.

    out: the output folder. It is left out, as are other results, hidden files and files that are parts of a slide.
    Links are followed, and a folder that several links lead to is visited once. A named slide that cannot be used is
    among the slides, so that its failure is reported. Raises CohortError for a source that does not exist,
    ManifestError for a list that cannot be used, and ConfigError for an argument of another type.
    """
    one = isinstance(sources, str | os.PathLike)
    named = check(tuple[str | os.PathLike, ...], [sources] if one else sources, "sources")  # type: ignore[type-arg]
    search = _Search(to_location(check(str | os.PathLike | Url, out, "out")).absolute())
    slides = [slide for source in named for slide in search.slides_of(os.fspath(source))]
    return FoundSlides(tuple(_each_once(_without_parts(slides))), tuple(search.notes))


class _Search:
    def __init__(self, out: Location) -> None:
        self._out = os.path.realpath(out) if isinstance(out, Path) else None
        self._results: dict[Path, bool] = {}
        self.notes: list[str] = []

    def slides_of(self, source: str) -> Iterator[CohortSlide]:
        path = Path(source).expanduser().absolute()
        if "://" in source:
            raise CohortError(f"{source} is a URL; slides are read from files: mount the store and name its path")
        if not os.path.lexists(path) and has_magic(source):
            yield from self._matches(source)
        elif path.is_dir() and path.suffix.lower() not in SLIDE_SUFFIXES:
            yield from self._folder(source, path)
        elif path.suffix.lower() == ".csv":
            yield from read_list(path)
        elif os.path.lexists(path) or path.suffix.lower() in SLIDE_SUFFIXES | IMAGE_SUFFIXES:
            yield from self._entry(path, source)
        else:
            raise CohortError(f"{source}: no such slide, folder or list")

    def _folder(self, source: str, path: Path) -> Iterator[CohortSlide]:
        if _is_part(path):
            return
        images: list[Path] = []
        slides = self._slides_below(path, images)
        yield from (CohortSlide.of(slide, source) for slide in slides)
        if not slides:
            self.notes.append(f"no slides in {source}")
        if images:
            self.notes.append(
                f"{counted(len(images), 'PNG or JPEG image')} in {source} left out, such as {images[0].name}: "
                f'to segment such images, name them or a pattern ("{source.rstrip("/")}/*{images[0].suffix}")'
            )

    def _matches(self, pattern: str) -> Iterator[CohortSlide]:
        found = False
        absolute = Path(os.path.expanduser(pattern)).absolute()
        deep = "**" in absolute.parts
        root = next(parent for parent in absolute.parents if not has_magic(str(parent)))
        for path in sorted(expand_pattern(absolute, enter=lambda folder: not self._in_results(folder, root))):
            if self._in_results(path if path.is_dir() else path.parent, root):
                continue
            if path.is_dir() and path.suffix.lower() not in SLIDE_SUFFIXES:
                slides: Iterable[Path] = () if deep or _is_part(path) else self._slides_below(path)
            else:
                slides = [path] if path.suffix.lower() in SLIDE_SUFFIXES | IMAGE_SUFFIXES else ()
            for slide in slides:
                found = True
                yield from self._entry(slide, pattern)
        if not found:
            self.notes.append(f"{pattern} matches no slide")

    def _entry(self, path: Path, source: str) -> Iterator[CohortSlide]:
        """A slide; a folder named like one stands for the slides in it, or without any for a slide that fails."""
        inside = self._slides_below(path) if path.is_dir() else []
        yield from (CohortSlide.of(slide, source) for slide in inside or [path])

    def _slides_below(self, folder: Path, images: list[Path] | None = None) -> list[Path]:
        """Slides in a folder and below it, by path; see `_entry` for folders that are named like a slide.

        images: gets the PNG and JPEG files that are no part of a slide of several files.
        """
        entries = walk(folder, enter=self._is_entered, on_error=self._note_unreadable)
        paths = [e.path for e in entries if e.kind != "closed"]
        found = [path for path in paths if path.suffix.lower() in SLIDE_SUFFIXES]
        if images is not None:
            hamamatsu = {path.parent for path in found if path.suffix.lower() in (".vms", ".vmu")}
            images += (p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.parent not in hamamatsu)
        with_slides = {parent for path in found for parent in path.parents}
        return [path for path in found if path not in with_slides]

    def _is_entered(self, folder: Path) -> bool:
        return not (self._is_result(folder) or _is_part(folder))

    def _is_result(self, folder: Path) -> bool:
        """True for the output, a result, a cohort's folder, and a Zarr image."""
        return folder.suffix.lower() == ".zarr" or os.path.realpath(folder) == self._out or holds_results(folder)

    def _in_results(self, path: Path, root: Path) -> bool:
        """True for a folder below the root that is a result or lies in one."""
        if path == root or root not in path.parents:
            return False
        if path not in self._results:
            self._results[path] = self._is_result(path) or self._in_results(path.parent, root)
        return self._results[path]

    def _note_unreadable(self, error: OSError) -> None:
        self.notes.append(f"{error.filename} cannot be read: {error.strerror or error}")


def expand_pattern(pattern: Path, *, enter: Callable[[Path], bool] = lambda folder: True) -> set[Path]:
    """Existing paths that match an absolute pattern; "**" is any number of folders, and at its end all in them.

    Hidden names match only a part that begins with a dot. Differs from the standard library's glob in "**", which
    visits each real folder once: glob follows links that lead back without end. enter: false for a folder that "**" is
    not to enter.
    """
    found = {Path(pattern.anchor)}
    for number, part in enumerate(pattern.parts[1:], start=2):
        if part == "**":
            found = {below for path in found if path.is_dir() for below in (path, *_folders_below(path, enter))}
            if number == len(pattern.parts):
                found |= {path / name for path in found for name in _names(path, "*")}
        elif has_magic(part):
            found = {path / name for path in found for name in _names(path, part)}
        else:
            found = {path / part for path in found if os.path.lexists(path / part)}
    return found


def _folders_below(folder: Path, enter: Callable[[Path], bool]) -> Iterator[Path]:
    return (entry.path for entry in walk(folder, enter=enter) if entry.kind == "folder")


def _names(folder: Path, pattern: str) -> list[str]:
    names: list[str] = []
    with suppress(OSError):  # not a folder, or not readable
        names = os.listdir(folder)
    return [name for name in matching(names, pattern) if pattern.startswith(".") or not name.startswith(".")]


def read_list(path: Path) -> Iterator[CohortSlide]:
    """Yield the slides of a CSV file with a row for each; paths are relative to its folder, and need not exist.

    Raises ManifestError, naming file and row.
    """
    for line, cells in read_table(path, LIST):
        origin = f"{path}, row {line}"
        yield replace(
            CohortSlide.of(_listed_path(cells["slide"], "slide", path.parent, origin), origin),
            mpp=_listed_mpp(cells.get("mpp", ""), origin),
            bundle=_listed_bundle(cells, path.parent, origin),
            name=cells.get("name") or None,
            roi=_listed_roi(cells, path.parent, origin),
            listed_in=str(path),
        )


def _listed_path(text: str, column: str, folder: Path, origin: str) -> Path:
    if not text:
        raise ManifestError(f"{origin}: {column} is empty")
    try:
        path = Path(os.path.normpath(folder / Path(text).expanduser()))
        os.path.realpath(path)
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, an unknown user
        raise ManifestError(f"{origin}: {column} {text[:80]!r} cannot be a file: {error}") from error
    return path


def _listed_mpp(text: str, origin: str) -> float | None:
    if not text:
        return None
    try:
        return check_mpp(float(text))[0]
    except ConfigError as error:
        raise ManifestError(f"{origin}: {error}") from error
    except ValueError:
        raise ManifestError(f"{origin}: mpp {text!r} is not a number of microns") from None


def _listed_bundle(cells: Cells, folder: Path, origin: str) -> str | None:
    text = cells.get("bundle", "")
    if text in ("", "default"):
        return text or None
    path = _listed_path(text, "bundle", folder, origin)
    if not path.is_file():
        raise ManifestError(f"{origin}: bundle {path} does not exist")
    return str(path)


def _listed_roi(cells: Cells, folder: Path, origin: str) -> str | None:
    if not (text := cells.get("roi", "")):
        return None
    path = _listed_path(text, "roi", folder, origin)
    if not path.exists():
        raise ManifestError(f"{origin}: roi {path} does not exist")
    return str(path)


def _is_part(folder: Path) -> bool:
    """True for the folder beside a MIRAX slide that holds its pixels."""
    return any(folder.with_name(folder.name + suffix).is_file() for suffix in (".mrxs", ".MRXS"))


def _without_parts(slides: Sequence[CohortSlide]) -> Iterator[CohortSlide]:
    """Leave out the pictures that belong to a Hamamatsu slide among the slides."""
    hamamatsu = [Path(slide.path) for slide in slides if slide.suffix in (".vms", ".vmu")]
    parts = {part for path in hamamatsu for part in named_by_hamamatsu(path)}
    return (slide for slide in slides if slide.path not in parts)


def _each_once(slides: Iterable[CohortSlide]) -> Iterator[CohortSlide]:
    """Yield each slide once, in the place of its first name, with its options from a list.

    Raises ManifestError if two rows give it different options.
    """
    kept: dict[str, CohortSlide] = {}
    for slide in slides:
        key = _identity(slide)
        before = kept.get(key)
        if before is None or (slide.has_own_options and not before.has_own_options):
            kept[key] = slide
        elif slide.has_own_options and slide.own_options != before.own_options:
            raise ManifestError(f"{slide.origin}: {slide.path} is also in {before.origin}, with other values")
    series = [os.path.dirname(slide.path) for slide in kept.values() if slide.suffix == ".dcm"]
    for slide in kept.values():
        alone = slide.suffix == ".dcm" and series.count(os.path.dirname(slide.path)) == 1
        yield slide.labelled(Path(slide.path).parent.name) if alone else slide


def _identity(slide: CohortSlide) -> str:
    """Equal for two names of a slide: its real path, or for DICOM its real folder and series."""
    series = dicom_series(Path(slide.path)) if slide.suffix == ".dcm" else None
    return f"{os.path.dirname(slide.real_path)}//{series}" if series else slide.real_path
