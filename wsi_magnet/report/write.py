"""Report files: one page for one result; for several an index with a folder of pages beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.report.facts import read_facts
from wsi_magnet.report.pages import Entry, Unsegmented, entry_of, index_page, slide_page
from wsi_magnet.report.pictures import take_pictures
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location
from wsi_magnet.storage.output import refuse_existing, whole

_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Options of a report."""

    longest_px: int = 2000
    """Maximum of the pictures' longer side; a page's size grows with its square."""
    overwrite: bool = False
    """Replace an earlier report of that name."""

    def __post_init__(self) -> None:
        if not 200 <= self.longest_px <= 6000:
            raise ConfigError(f"--size must be between 200 and 6000 pixels; got {self.longest_px}")


@dataclass(frozen=True, slots=True)
class Reported:
    """Result of writing a report."""

    files: tuple[Path, ...]
    """Written files, first the one to open."""
    notes: tuple[str, ...] = ()
    """Notes for the user: pages without their slide, runs that have not finished."""


def write_report(
    results: Sequence[Location],
    target: Path,
    options: ReportOptions | None = None,
    progress: Callable[[Location], None] = lambda _: None,
    others: Sequence[Unsegmented] = (),
) -> Reported:
    """Make the page of a result folder, or an index of several and a folder `<name>-slides` of their pages.

    progress: called with each result before its page is made. others: slides without a result, which the index lists.
    Raises StoreError or ResultMismatchError for a folder that is not a result, StoreError where the target exists or
    cannot be written, ConfigError for another suffix.
    """
    options = options or ReportOptions()
    single = len(results) == 1 and not others
    if not results and not others:
        raise ConfigError("no result to report on; name at least one result folder")
    _check(target, options, single=single)
    for result in results:
        Result(result)  # refuses invalid results before the first picture is read
    if single:
        progress(results[0])
        page, _, notes = _page(results[0], "", options, index=None)
        write_whole(target, page)
        return Reported((target,), tuple(notes))
    return _write_cohort(results, others, target, options, progress)


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically. Raises StoreError."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        # A name on disk may contain bytes that are not text.
        partial.write_bytes(text.encode("utf-8", "replace"))


def _check(target: Path, options: ReportOptions, *, single: bool) -> None:
    if target.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{target} is not a name of a page; end it in .html")
    if target.is_dir():
        raise StoreError(f"{target} is a folder; choose another name with -o")
    folder = _folder(target)
    for there in (target,) if single else (target, folder):
        refuse_existing(there, overwrite=options.overwrite)
    if not single and folder.exists():
        others = [p.name for p in folder.iterdir() if p.suffix != ".html"] if folder.is_dir() else [folder.name]
        if others:
            raise StoreError(f"{folder} holds a file that is not a page ({others[0]}); choose another name with -o")


def _folder(target: Path) -> Path:
    return target.with_name(f"{target.stem}-slides")


def _write_cohort(
    results: Sequence[Location],
    others: Sequence[Unsegmented],
    target: Path,
    options: ReportOptions,
    progress: Callable[[Location], None],
) -> Reported:
    folder = _folder(target)
    entries: list[Entry] = []
    notes: list[str] = []
    with whole(folder) as partial:
        partial.mkdir(parents=True)
        for result, name in zip(results, _names(results), strict=True):
            progress(result)
            href = f"{quote(folder.name)}/{quote(name)}"
            page, entry, page_notes = _page(result, href, options, index=f"../{quote(target.name)}")
            write_whole(partial / name, page)
            entries.append(entry)
            notes += page_notes
    write_whole(target, index_page(entries, others))
    return Reported((target, *sorted(folder.iterdir())), tuple(notes))


def _page(result: Location, href: str, options: ReportOptions, index: str | None) -> tuple[str, Entry, list[str]]:
    facts = read_facts(result, count=False)  # `write_report` has opened it before
    pictures = take_pictures(facts.source, options.longest_px)
    notes = []
    if pictures.slide is None:
        notes.append(f"{result} is shown without its slide: {pictures.why_no_slide}")
    notes += [f"{result}, {alarm.kind}: {alarm.text}" for alarm in facts.source.alarms]
    if facts.state == "stopped":
        notes.append(f"{result} was stopped before its end; the same wsi-magnet command resumes it")
    entry = entry_of(facts, href, pictures.thumbnail)
    return slide_page(facts, pictures, index=index), entry, notes


def _names(results: Sequence[Location]) -> list[str]:
    """A file name for each result: the folder's name, numbered where it repeats."""
    names: list[str] = []
    for result in results:
        stem = name = result.resolve().name
        number = 2
        while f"{name}.html".lower() in {n.lower() for n in names}:
            name, number = f"{stem}-{number}", number + 1
        names.append(f"{name}.html")
    return names
