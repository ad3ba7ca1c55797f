"""Manifests: CSV files with a row per annotated image, read as a whole or refused with the row named."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import cast, get_args

from wsi_magnet.config import LEAST_MPP, MOST_MPP
from wsi_magnet.dataset.leaks import Problem, leaks
from wsi_magnet.dataset.sample import SPLITS, Consensus, Sample, Split
from wsi_magnet.dataset.splits import assign_splits
from wsi_magnet.dataset.table import COLUMNS, REQUIRED, SEPARATOR, SITE, Cells, codings, read_table
from wsi_magnet.errors import ManifestError
from wsi_magnet.storage.atomic import replace_file
from wsi_magnet.storage.errors import storage_errors

SPLIT_WORDS: Mapping[str, Split] = {**{split: split for split in SPLITS}, "val": "validation", "valid": "validation"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest's rows, in order."""

    path: Path
    """Absolute."""
    samples: tuple[Sample, ...]

    def of(self, *splits: Split) -> tuple[Sample, ...]:
        """The samples of these splits, in order."""
        return tuple(sample for sample in self.samples if sample.split in splits)


def read_manifest(path: str | os.PathLike[str], *, seed: int = 0) -> Manifest:
    """Read and check a manifest; its paths are relative to its folder.

    seed: for `assign_splits`, used if the column "split" is missing or empty in all rows. Raises ManifestError, naming
    the first unusable row and the number of further ones: for missing or unknown files, values and columns, for
    repeated images, and for leaks between splits.
    """
    where = Path(path).expanduser().absolute()
    drafts, problems = [], []
    for line, cells in read_table(where):
        try:
            drafts.append((_sample(line, cells, where.parent), _split(cells.get("split", ""))))
        except ManifestError as error:
            problems.append((line, str(error)))
    refuse(where, problems)
    samples = _with_splits(where, drafts, seed)
    refuse(where, leaks(samples))
    return Manifest(where, tuple(samples))


def write_manifest(path: str | os.PathLike[str], samples: Iterable[Sample]) -> None:
    """Write a manifest atomically; `read_manifest` reads these samples back.

    Paths below the manifest's folder are written relative to it. Raises ManifestError for a path with ";", and
    StoreError.
    """
    where = Path(path).expanduser().absolute()
    text = StringIO()
    listed = list(samples)
    columns = [name for name in COLUMNS if name != SITE or any(sample.site for sample in listed)]
    rows = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows(_written(sample, where.parent) for sample in listed)
    with storage_errors(where):
        where.parent.mkdir(parents=True, exist_ok=True)
        replace_file(where, text.getvalue().encode())


def refuse(path: Path, problems: Sequence[Problem]) -> None:
    """Raise ManifestError with the first problem, if any, and the number of further rows with problems."""
    if not problems:
        return
    row, text = problems[0]
    more = len({line for line, _ in problems}) - 1
    also = f" (and {more} more {'row' if more == 1 else 'rows'} with problems)" if more else ""
    raise ManifestError(f"{path}, row {row}: {text}{also}")


def _sample(line: int, cells: Cells, folder: Path) -> Sample:
    """A row's sample; its split is set later. Raises ManifestError without the row's number."""
    names = [name.strip() for name in cells["annotation"].split(SEPARATOR)]
    for column, filled in {**{name: bool(cells[name]) for name in REQUIRED}, "annotation": all(names)}.items():
        if not filled:
            raise ManifestError(f"{column} is empty" + (" between two ';'" if any(names) and not all(names) else ""))
    labels = cells.get("labels", "")
    codings(labels, len(names))
    return Sample(
        row=line,
        image=_file(cells["image"], folder, "image"),
        annotations=tuple(_file(name, folder, "annotation") for name in names),
        mpp=_mpp(cells.get("mpp", "")),
        group=cells["group"],
        split="train",
        labels=labels,
        consensus=_consensus(cells.get("consensus", "")),
        site=cells.get(SITE, ""),
    )


def _file(name: str, folder: Path, what: str) -> Path:
    try:
        path = Path(os.path.normpath(folder / Path(name).expanduser()))
        there = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, or with a null byte
        raise ManifestError(f"{what} {name[:80]!r} is not a file name: {error}") from error
    if not there:
        raise ManifestError(f"{what} {path}: no such file")
    if what == "image" and not path.is_file():
        raise ManifestError(f"{what} {path} is a folder; give a file")
    return path


def _mpp(text: str) -> float | None:
    if not text:
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = float("nan")
    if not (isfinite(mpp) and mpp > 0):
        raise ManifestError(f"mpp {text!r} is not a positive number; give microns per pixel, or leave it empty")
    if not LEAST_MPP <= mpp <= MOST_MPP:
        raise ManifestError(f"mpp {text!r} is out of range; give microns per pixel, {LEAST_MPP:g} to {MOST_MPP:g}")
    return mpp


def _split(text: str) -> Split | None:
    if text and text.lower() not in SPLIT_WORDS:
        raise ManifestError(f"split {text!r} is not {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")
    return SPLIT_WORDS.get(text.lower())


def _consensus(text: str) -> Consensus:
    known = get_args(Consensus)
    if text and text.lower() not in known:
        raise ManifestError(f"consensus {text!r} is not {', '.join(known[:-1])} or {known[-1]}")
    return cast(Consensus, text.lower()) if text else "first"


def _with_splits(path: Path, drafts: Sequence[tuple[Sample, Split | None]], seed: int) -> list[Sample]:
    if all(split is None for _, split in drafts):
        chosen = assign_splits(Counter(sample.group for sample, _ in drafts), seed=seed)
        return [replace(sample, split=chosen[sample.group]) for sample, _ in drafts]
    refuse(
        path,
        [
            (sample.row, "split is empty, but other rows have one; fill it in all rows or none")
            for sample, split in drafts
            if split is None
        ],
    )
    return [replace(sample, split=split) for sample, split in drafts if split is not None]


def _written(sample: Sample, folder: Path) -> dict[str, str]:
    """Cells by column."""
    for path in sample.annotations:
        if SEPARATOR in str(path):
            raise ManifestError(
                f"annotation {path} holds {SEPARATOR!r}, which separates the files of a cell; rename it"
            )
    cells = (
        _relative(sample.image, folder),
        SEPARATOR.join(_relative(path, folder) for path in sample.annotations),
        "" if sample.mpp is None else repr(sample.mpp),
        sample.group,
        sample.split,
        sample.labels,
        sample.consensus,
        sample.site,
    )
    return dict(zip(COLUMNS, cells, strict=True))


def _relative(path: Path, folder: Path) -> str:
    path = Path(os.path.normpath(path.absolute()))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
