"""Leak detection: groups, files and identical contents in two splits, or images listed twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path

from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import ManifestError

Problem = tuple[int, str]
"""A row of the manifest and its problem."""

HEAD_BYTES = 1 << 16
"""Length of the start that is compared before whole files: uncompressed images share their size, not their start."""


def leaks(samples: Sequence[Sample]) -> list[Problem]:
    """All problems, each with the later row's number, in the order of rows."""
    found = [*_repeated(samples), *_parted_groups(samples), *_shared_annotations(samples)]
    # Reading files is expensive, and useless if the list itself is wrong.
    return sorted(found or _same_content(samples))


def identical_files(paths: Iterable[Path]) -> list[list[Path]]:
    """Lists of two or more files with the same bytes.

    Only files of equal size are opened, and only those with an equal start are read to the end. Raises ManifestError.
    """
    groups = [list(paths)]
    keys: list[Callable[[Path], Hashable]] = [lambda path: path.stat().st_size, _head, _sha256]
    for key in keys:
        groups = [part for group in groups for part in _alike(group, key)]
    return groups


def _alike(paths: Sequence[Path], key: Callable[[Path], Hashable]) -> Iterator[list[Path]]:
    parts: dict[Hashable, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            parts[key(path)].append(path)
        except OSError as error:
            raise ManifestError(f"{path} cannot be read: {error.strerror or error}") from error
    yield from (part for part in parts.values() if len(part) > 1)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _repeated(samples: Sequence[Sample]) -> Iterator[Problem]:
    first: dict[Path, int] = {}
    for sample in samples:
        earlier = first.setdefault(sample.image.resolve(), sample.row)
        if earlier != sample.row:
            yield (
                sample.row,
                f"image {sample.image} is also in row {earlier}; list several annotations of one image in one row, "
                "separated by ';'",
            )


def _parted_groups(samples: Sequence[Sample]) -> Iterator[Problem]:
    first: dict[str, Sample] = {}
    for sample in samples:
        earlier = first.setdefault(sample.group, sample)
        if earlier.split != sample.split:
            yield (
                sample.row,
                f"group {sample.group!r} is in {earlier.split} (row {earlier.row}) and {sample.split} "
                f"(row {sample.row}); give all its rows the same split",
            )


def _shared_annotations(samples: Sequence[Sample]) -> Iterator[Problem]:
    first: dict[Path, Sample] = {}
    for sample in samples:
        for path in sample.annotations:
            earlier = first.setdefault(path.resolve(), sample)
            if earlier.group != sample.group:
                yield (
                    sample.row,
                    f"annotation {path} belongs to group {earlier.group!r} (row {earlier.row}) and to group "
                    f"{sample.group!r} (row {sample.row}); give each image its own",
                )


def _same_content(samples: Sequence[Sample]) -> Iterator[Problem]:
    by_image = {sample.image: sample for sample in samples}
    for twins in identical_files(by_image):
        first, *others = sorted((by_image[path] for path in twins), key=lambda sample: sample.row)
        for sample in others:
            if sample.split != first.split:
                yield (
                    sample.row,
                    f"image {sample.image} has the same content as {first.image} (row {first.row}), but one is in "
                    f"{first.split} and the other in {sample.split}; leave one out or give both the same group",
                )
