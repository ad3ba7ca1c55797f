"""The two halves of a refining method: the same network at the coarsest scale alone, and at the finest alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsi_magnet.evaluate.prediction import Prediction

COARSE, FINE = "Downsample", "Patching"
"""Methods of the halves."""


@dataclass(frozen=True, eq=False, slots=True)
class Halves:
    """Results of the halves on one slide."""

    coarse: Prediction
    fine: Prediction


def is_half(method: str) -> bool:
    """True for a method that is a half."""
    return method in (COARSE, FINE)


def find_halves(results: Sequence[Prediction], rows: Iterable[Sequence[Prediction]]) -> list[Halves] | None:
    """Halves of each of a row's results, with the same bundle and on the same slide, among the results of `rows`.

    None if one of them has none, or is a half itself.
    """
    found = {_key(one, one.method): one for row in rows for one in row if is_half(one.method)}
    if any(is_half(one.method) for one in results):
        return None
    pairs = [(found.get(_key(one, COARSE)), found.get(_key(one, FINE))) for one in results]
    halves = [Halves(coarse, fine) for coarse, fine in pairs if coarse is not None and fine is not None]
    return halves if halves and len(halves) == len(results) else None


def _key(result: Prediction, method: str) -> tuple[str, str, str]:
    return method, result.bundle, result.identity
