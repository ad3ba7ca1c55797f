"""Partition of classes into those that a data set can distinguish: classes that share a label set are in one part."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from wsi_magnet.annotations.types import Sets, full_set
from wsi_magnet.metrics.confusion import UNLABELLED


def partition(label_sets: Iterable[int], n_classes: int) -> tuple[int, ...]:
    """The part of each class: classes that share a label set share a part.

    label_sets: every set that occurs; the full set carries no information and is skipped. Parts are numbered in the
    order of their first class. "gland or lumen" beside "stroma" make two parts of three classes.
    """
    part_of = list(range(n_classes))
    for one in label_sets:
        if one == full_set(n_classes):
            continue
        members = [i for i in range(n_classes) if one >> i & 1]
        joined = {part_of[i] for i in members}
        part_of = [min(joined) if part in joined else part for part in part_of]
    numbers = {part: number for number, part in enumerate(sorted(set(part_of)))}
    return tuple(numbers[part] for part in part_of)


def parts_of(sets: Sets, part_of: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """The part of each pixel's set, int64 (H, W); UNLABELLED where the set is full or spans several parts."""
    n_classes = len(part_of)
    lookup: dict[int, int] = {}
    for one in np.unique(sets).tolist():
        parts = {part_of[i] for i in range(n_classes) if one >> i & 1}
        known = one != full_set(n_classes) and len(parts) == 1
        lookup[one] = parts.pop() if known else UNLABELLED
    found = np.full(sets.shape, UNLABELLED, np.int64)
    for one, part in lookup.items():
        if part != UNLABELLED:
            found[sets == one] = part
    return found
