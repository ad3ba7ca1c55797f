"""From what a user names (slides, folders, patterns, lists) to the slides that are meant, each once and in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from wsi_magnet.cohort.lists import read_list
from wsi_magnet.cohort.paths import holds_results
from wsi_magnet.cohort.patterns import expand
from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.errors import CohortError, ManifestError
from wsi_magnet.slides.companions import dicom_series, named_by_hamamatsu
from wsi_magnet.storage.location import Location

SLIDE_SUFFIXES = frozenset(
    {".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu"}
)
"""What is taken for a slide wherever it lies in a folder."""

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
"""What may be a slide, and is more often a picture of something: taken where it is named, or a pattern matches it."""


@dataclass(frozen=True, slots=True)
class Found:
    """The slides that are meant."""

    jobs: tuple[SlideJob, ...]
    """In the order in which they were named; those of a folder by their path."""
    notes: tuple[str, ...]
    """What was named and gave nothing, or could not be looked into."""


def find_slides(sources: Sequence[str], out: Location) -> Found:
    """The slides that `sources` name: slides, folders with all that is below them, patterns, CSV files.

    out: where results go; it is left out, as are other results, hidden files and what only belongs to a slide.
    Slides that are named and cannot be used are among the jobs, so that each is told of. Raises CohortError for a
    source that is not there, and ManifestError for a list that cannot be used.
    """
    search = _Search(out)
    jobs = [job for source in sources for job in search.of(source)]
    return Found(tuple(_once(_without_parts(jobs))), tuple(search.notes))


class _Search:
    def __init__(self, out: Location) -> None:
        self._out = os.path.realpath(out) if isinstance(out, Path) else None
        self._results: dict[Path, bool] = {}
        self.notes: list[str] = []

    def of(self, source: str) -> Iterator[SlideJob]:
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

    def _folder(self, source: str, path: Path) -> Iterator[SlideJob]:
        slides = () if _is_part(path) else [SlideJob.of(slide, source) for slide in self._below(path, root=True)]
        yield from slides
        if not slides and not _is_part(path):
            self.notes.append(f"no slides in {source}")

    def _matches(self, pattern: str) -> Iterator[SlideJob]:
        found = False
        expanded = os.path.expanduser(pattern)
        deep = "**" in Path(expanded).parts
        root = _unmagic(Path(expanded).absolute())
        for path in sorted(expand(Path(expanded).absolute())):
            if self._in_results(path if path.is_dir() else path.parent, root):
                continue
            if path.is_dir() and path.suffix.lower() not in SLIDE_SUFFIXES:
                slides: Iterable[Path] = () if deep or _is_part(path) else self._below(path)
            else:
                slides = [path] if path.suffix.lower() in SLIDE_SUFFIXES | IMAGE_SUFFIXES else ()
            for slide in slides:
                found = True
                yield from self._entry(slide, pattern)
        if not found:
            self.notes.append(f"{pattern} matches no slide")

    def _entry(self, path: Path, source: str) -> Iterator[SlideJob]:
        """A slide, or a folder that is named like one and holds some; where it holds none it is a slide that fails."""
        inside = [SlideJob.of(slide, source) for slide in self._below(path, root=True)] if path.is_dir() else []
        yield from inside or [SlideJob.of(path, source)]

    def _below(self, folder: Path, *, root: bool = False, above: frozenset[str] = frozenset()) -> Iterator[Path]:
        """Slides in a folder and below, by path; links are followed, in a circle once."""
        real = os.path.realpath(folder)
        if real in above or (real == self._out and not root):
            return
        try:
            with os.scandir(folder) as scanned:
                entries = sorted((e for e in scanned if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            self.notes.append(f"{folder} cannot be looked into: {error.strerror or error}")
            return
        if holds_results(folder) and not root:
            return
        scans = {Path(e.name).stem for e in entries if e.name.lower().endswith(".mrxs")}
        for entry in entries:
            path, is_slide = folder / entry.name, Path(entry.name).suffix.lower() in SLIDE_SUFFIXES
            if not _is_folder(entry):
                yield from [path] if is_slide else []
            elif entry.name not in scans and not entry.name.lower().endswith(".zarr"):
                inside = list(self._below(path, above=above | {real}))
                yield from inside or ([path] if is_slide else [])

    def _in_results(self, path: Path, root: Path) -> bool:
        """True for what lies in OUT, in another result or in an image of Zarr, somewhere below the root."""
        if path == root or root not in path.parents:
            return False
        if path not in self._results:
            is_one = path.suffix == ".zarr" or os.path.realpath(path) == self._out or holds_results(path)
            self._results[path] = is_one or self._in_results(path.parent, root)
        return self._results[path]


def _unmagic(pattern: Path) -> Path:
    """The folder that a pattern begins with, before its first wildcard."""
    return next(parent for parent in pattern.parents if not has_magic(str(parent)))


def _is_part(folder: Path) -> bool:
    """True for the folder of a MIRAX slide, which lies beside it."""
    return folder.with_name(f"{folder.name}.mrxs").is_file()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _without_parts(jobs: Sequence[SlideJob]) -> Iterator[SlideJob]:
    """Without the pictures that a Hamamatsu slide among them is made of."""
    parts = {part for job in jobs if job.suffix in (".vms", ".vmu") for part in named_by_hamamatsu(Path(job.slide))}
    return (job for job in jobs if job.slide not in parts)


def _once(jobs: Iterable[SlideJob]) -> Iterator[SlideJob]:
    """Each slide once, where it was first named, with what a list says of it. Raises ManifestError for two minds."""
    kept: dict[str, SlideJob] = {}
    for job in jobs:
        key = _key(job)
        before = kept.get(key)
        if before is None or (before.is_plain and not job.is_plain):
            kept[key] = job
        elif not job.is_plain and job.wishes != before.wishes:
            raise ManifestError(f"{job.origin}: {job.slide} is named by {before.origin} too, with other values")
    series = [os.path.dirname(job.slide) for job in kept.values() if job.suffix == ".dcm"]
    for job in kept.values():
        alone = job.suffix == ".dcm" and series.count(os.path.dirname(job.slide)) == 1
        yield job.labelled(Path(job.slide).parent.name) if alone else job


def _key(job: SlideJob) -> str:
    """What two jobs of one slide share: where it lies, for DICOM with the series that its files are parts of."""
    series = dicom_series(Path(job.slide)) if job.suffix == ".dcm" else None
    return f"{os.path.dirname(job.real)}//{series}" if series else job.real
