"""What each slide's result is named: after the slide, and never the same for two, also where upper case is lower."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from wsi_magnet.cohort.paths import RESERVED
from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.errors import CohortError

LONGEST_BYTES = 180
"""Of a name: file systems take 255 bytes, and a state file's has a suffix."""

_HASH_DIGITS = 8


def name_slides(
    jobs: Sequence[SlideJob], known: Mapping[str, str], holding: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """The result folder's name of each job, in their order, by which nothing else is decided.

    jobs: of different slides. known: names of results that are there, by where their slide really lies; they stay what
    they are. holding: folded names of what holds an input of the batch, and that input; these nobody else gets. The
    others are named after their slide; those that would share a name also after their folder, and those that still
    would after their whole path. Raises CohortError for a name that a list wants and that cannot be had.
    """
    taken = {**holding, **{fold(name): real for real, name in known.items()}}
    names = {job.real: known[job.real] for job in jobs if job.real in known}
    for job in jobs:
        if job.name is not None:
            names[job.real] = _asked(job, job.name, taken, names.get(job.real))
            taken[fold(job.name)] = job.real
    fresh = [job for job in jobs if job.real not in names]
    for suggest in (_plain, _with_parent, _with_hash):
        fresh = _settle(fresh, suggest, taken, names)
    assert not fresh, "a hash of the whole path is nobody else's"
    return [names[job.real] for job in jobs]


def fold(name: str) -> str:
    """Equal for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _settle(
    jobs: Sequence[SlideJob], suggest: Callable[[SlideJob], str], taken: dict[str, str], names: dict[str, str]
) -> list[SlideJob]:
    """Name those whose suggestion nobody else has; returns the others."""
    suggested = [(job, suggest(job)) for job in jobs]
    counts = Counter(fold(name) for _, name in suggested)
    left = []
    for job, name in suggested:
        if counts[fold(name)] > 1 or fold(name) in taken or name in RESERVED:
            left.append(job)
        else:
            names[job.real] = name
    taken.update({fold(names[job.real]): job.real for job, _ in suggested if job.real in names})
    return left


def _asked(job: SlideJob, name: str, taken: Mapping[str, str], before: str | None) -> str:
    if name != _fit(name) or fold(name) in RESERVED:
        raise CohortError(f"{job.origin}: name {name!r} cannot be a result folder's; {_fit(name)!r} could")
    if before not in (None, name):
        raise CohortError(
            f"{job.origin}: the result of {job.slide} is there already and named {before!r}; leave the name, or choose "
            "another output folder with -o"
        )
    if taken.get(fold(name), job.real) != job.real:
        raise CohortError(f"{job.origin}: name {name!r} is that of {taken[fold(name)]}; choose another one")
    return name


def _plain(job: SlideJob) -> str:
    return _fit(job.label)


def _with_parent(job: SlideJob) -> str:
    return _fit(f"{Path(job.slide).parent.name}-{job.label}")


def _with_hash(job: SlideJob) -> str:
    return _hashed(job.label, job.real)


def _fit(text: str) -> str:
    """A text as the name of a folder that is not hidden and no Zarr (QuPath takes the first in a path for the root)."""
    name = "".join("_" if c in "/\\" or not c.isprintable() else c for c in text).strip()
    if name.startswith("."):
        name = "_" + name[1:]
    while ".zarr" in name.lower():
        at = name.lower().index(".zarr")
        name = f"{name[:at]}-{name[at + 1 :]}"
    if not name:
        name = "_"
    return name if len(name.encode(errors="replace")) <= LONGEST_BYTES else _hashed(name, name)


def _hashed(label: str, of: str) -> str:
    digits = hashlib.sha256(of.encode(errors="surrogateescape")).hexdigest()[:_HASH_DIGITS]
    fitting = _fit(label) if len(label.encode(errors="replace")) <= LONGEST_BYTES else label
    short = fitting.encode(errors="replace")[: LONGEST_BYTES - _HASH_DIGITS - 1].decode(errors="ignore")
    return f"{short}-{digits}"
