"""Names of results: after their slides, and distinct also on file systems that ignore case."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from wsi_magnet.cohort.paths import RESERVED
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.errors import CohortError

LONGEST_BYTES = 180
"""Length limit of a name: file systems allow 255 bytes, and a state file has a suffix."""

_HASH_DIGITS = 8


def name_slides(
    slides: Sequence[CohortSlide], known: Mapping[str, str], reserved: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Names of the result folders, in the order of the slides; that order changes no name.

    slides: distinct. known: names of existing results by the real path of their slide, which stay. reserved: folded
    names of folders that contain an input of the batch, with that input; no result gets them. Other results are named
    after their slide; if that is ambiguous also after its folder, and then by a hash of its path. Raises CohortError
    for a list's name that cannot be used.
    """
    taken = {**reserved, **{fold(name): real_path for real_path, name in known.items()}}
    names = {slide.real_path: known[slide.real_path] for slide in slides if slide.real_path in known}
    for slide in slides:
        if slide.name is not None:
            names[slide.real_path] = _checked(slide, slide.name, taken, names.get(slide.real_path))
            taken[fold(slide.name)] = slide.real_path
    unnamed = [slide for slide in slides if slide.real_path not in names]
    for suggest in (_plain, _with_parent, _with_hash):
        unnamed = _assign(unnamed, suggest, taken, names)
    assert not unnamed, "a hash of the whole path is unique"
    return [names[slide.real_path] for slide in slides]


def fold(name: str) -> str:
    """A form that is equal for names which some file system does not tell apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _assign(
    slides: Sequence[CohortSlide], suggest: Callable[[CohortSlide], str], taken: dict[str, str], names: dict[str, str]
) -> list[CohortSlide]:
    """Name the slides whose suggestion is unique; returns the others."""
    suggested = [(slide, suggest(slide)) for slide in slides]
    counts = Counter(fold(name) for _, name in suggested)
    left = []
    for slide, name in suggested:
        if counts[fold(name)] > 1 or fold(name) in taken or name in RESERVED:
            left.append(slide)
        else:
            names[slide.real_path] = name
    taken.update({fold(names[one.real_path]): one.real_path for one, _ in suggested if one.real_path in names})
    return left


def _checked(slide: CohortSlide, name: str, taken: Mapping[str, str], before: str | None) -> str:
    if name != _fit(name) or fold(name) in RESERVED:
        raise CohortError(f"{slide.origin}: name {name!r} cannot be that of a result folder; {_fit(name)!r} could")
    if before not in (None, name):
        raise CohortError(
            f"{slide.origin}: {slide.path} already has a result, named {before!r}; remove the name from the list, or "
            "choose another output folder with -o"
        )
    if taken.get(fold(name), slide.real_path) != slide.real_path:
        raise CohortError(f"{slide.origin}: name {name!r} is that of {taken[fold(name)]}; choose another one")
    return name


def _plain(slide: CohortSlide) -> str:
    return _fit(slide.label)


def _with_parent(slide: CohortSlide) -> str:
    return _fit(f"{Path(slide.path).parent.name}-{slide.label}")


def _with_hash(slide: CohortSlide) -> str:
    return _hashed(slide.label, slide.real_path)


def _fit(text: str) -> str:
    """A folder name from a text: not hidden, and not a Zarr, since QuPath takes the first in a path for the root."""
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
