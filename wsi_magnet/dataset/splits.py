"""Assignment of whole groups to splits, by a seed, as close to the wanted fractions as the groups allow."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import isfinite

from wsi_magnet.dataset.sample import SPLITS, Split
from wsi_magnet.errors import ManifestError

FRACTIONS = (0.7, 0.15, 0.15)
"""Shares of train, validation and test, in samples."""

_NOTHING = 1e-9  # rounding error of an unchanged sum


@dataclass(frozen=True, slots=True)
class _Step:
    """A move of a group of one size to another part, or a swap with a group of size `returned` (0: none)."""

    giver: int
    taker: int
    size: int
    returned: int
    gain: float


def assign_splits(groups: Mapping[str, int], fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> dict[str, Split]:
    """The split of each group, such that no move or swap of groups brings the splits closer to the fractions.

    groups: number of samples of each group. fractions: of train, validation and test, scaled to a sum of 1. Closeness
    is the sum of squared differences, in samples. With at least as many groups as splits, no split is empty. The result
    does not depend on the order of the groups. Raises ManifestError for invalid fractions or counts.
    """
    if len(fractions) != len(SPLITS) or not all(isfinite(f) and f >= 0 for f in fractions) or not sum(fractions):
        raise ManifestError(
            f"fractions {', '.join(f'{f:g}' for f in fractions)} are not three shares for train, validation and test"
        )
    if not fractions[0]:
        raise ManifestError("the fraction of train is 0; training needs samples, raise it")
    parts = _share_out(groups, fractions, seed)
    return {name: split for split, part in zip(SPLITS, parts, strict=True) for name in sorted(part)}


def _share_out(groups: Mapping[str, int], fractions: Sequence[float], seed: int) -> list[dict[str, int]]:
    """Groups by part: in random order each goes where most is missing, then moves and swaps improve the result."""
    for name, size in groups.items():
        if size < 1:
            raise ManifestError(f"group {name!r} has {size} samples; leave it out")
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    total = sum(groups.values())
    wanted = [total * f / sum(fractions) for f in fractions]
    parts: list[dict[str, int]] = [{} for _ in fractions]
    missing = list(wanted)
    empty_first = [i for i, share in enumerate(wanted) if share]
    for name in names:
        needy = empty_first.pop(0) if empty_first else missing.index(max(missing))
        parts[needy][name] = groups[name]
        missing[needy] -= groups[name]
    while step := _best_step(parts, wanted):
        _take(parts, step)
    return parts


def _best_step(parts: Sequence[Mapping[str, int]], wanted: Sequence[float]) -> _Step | None:
    steps = (step for step in _steps(parts, wanted) if step.gain > _NOTHING)
    return max(steps, key=lambda step: step.gain, default=None)


def _steps(parts: Sequence[Mapping[str, int]], wanted: Sequence[float]) -> Iterator[_Step]:
    """Possible moves and swaps by size: groups of equal size are interchangeable, so there are few steps."""
    surplus = [sum(part.values()) - share for part, share in zip(parts, wanted, strict=True)]
    sizes = [sorted(set(part.values())) for part in parts]
    for giver, taker in permutations(range(len(parts)), 2):
        if not wanted[taker]:
            continue
        may_shrink = len(parts[giver]) > 1
        for size in sizes[giver]:
            for returned in [*([0] if may_shrink else []), *sizes[taker]]:
                moved = size - returned
                gain = 2 * moved * (surplus[giver] - surplus[taker] - moved)
                yield _Step(giver, taker, size, returned, gain)


def _take(parts: list[dict[str, int]], step: _Step) -> None:
    given = next(name for name, size in parts[step.giver].items() if size == step.size)
    back = next((name for name, size in parts[step.taker].items() if size == step.returned), None)
    parts[step.taker][given] = parts[step.giver].pop(given)
    if back is not None:
        parts[step.giver][back] = parts[step.taker].pop(back)
