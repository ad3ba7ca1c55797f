"""Groups dealt to folds, such that the folds have equal shares of the images and of each class's pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_magnet.errors import ConfigError

TRIES = 300
"""Orders in which groups are dealt; the best deal is taken."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a fold by their split; all others are trained on."""

    test: tuple[str, ...]
    validation: tuple[str, ...]


def make_folds(contents: Mapping[str, Sequence[float]], count: int, validation: float, seed: int = 0) -> list[Groups]:
    """`count` folds; each group is in the test split of exactly one.

    contents: amounts of each group, such as images and pixels by class. validation: share of a fold's other groups
    that are validated on. The result does not depend on the order of the groups. Raises ConfigError where there are
    too few groups, and for an impossible share.
    """
    if count < 2:
        raise ConfigError(f"{count} folds: give at least 2")
    if not 0 < validation < 1:
        raise ConfigError(f"a share of {validation:g} to validate on: give one between 0 and 1")
    if len(contents) < max(count, 4 if count == 2 else 3):
        raise ConfigError(
            f"{len(contents)} groups are too few for {count} folds: each needs a group to test on, one to validate on "
            "and one to train on"
        )
    tests = deal(contents, [1 / count] * count, seed, least=2 if count == 2 else 1)
    folds = []
    for place, test in enumerate(tests):
        rest = {name: amounts for name, amounts in contents.items() if name not in test}
        _, held = deal(rest, [1 - validation, validation], seed + place)
        folds.append(Groups(tuple(test), tuple(held)))
    return folds


def deal(
    contents: Mapping[str, Sequence[float]], shares: Sequence[float], seed: int = 0, *, least: int = 1
) -> list[list[str]]:
    """Groups of each part, sorted; each part has at least `least`.

    The sum of squared differences between a part's share of each amount and the share that it should have is the least
    of many deals, in each of which groups, the larger ones rather first, go where most is missing. Raises ConfigError
    for fewer groups than that takes.
    """
    names = sorted(contents)
    if len(names) < least * len(shares):
        raise ConfigError(f"{len(names)} groups cannot be dealt to {len(shares)} parts")
    amounts = np.array([contents[name] for name in names], np.float64)
    whole = amounts.sum(axis=0)
    amounts = amounts[:, whole > 0] / whole[whole > 0]
    rng = np.random.default_rng(seed)
    deals = [_deal_once(amounts, np.array(shares), least, rng) for _ in range(TRIES)]
    part_of, _ = min(deals, key=lambda one: one[1])
    return [[name for name, own in zip(names, part_of, strict=True) if own == k] for k in range(len(shares))]


def _deal_once(amounts: Floats, shares: Floats, least: int, rng: np.random.Generator) -> tuple[list[int], float]:
    """Part of each group, and the sum of squared differences, rounded so that ties do not hang on rounding errors."""
    order = np.argsort(-amounts.sum(axis=1) * rng.uniform(0.4, 1.6, len(amounts)))
    missing = np.repeat(shares[:, None], amounts.shape[1], axis=1)
    part_of = [-1] * len(amounts)
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        lacks = [max(least - part_of.count(k), 0) for k in range(len(shares))]
        open_to = [k for k, lack in enumerate(lacks) if lack or sum(lacks) < left]
        part = open_to[int(np.argmax(missing[open_to] @ amounts[group]))]
        part_of[group] = part
        missing[part] -= amounts[group]
    return part_of, round(float(np.square(missing).sum()), 12)
