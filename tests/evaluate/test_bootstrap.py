"""Intervals over groups."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from wsi_magnet.evaluate.bootstrap import Draws, draw, group_weights
from wsi_magnet.evaluate.columns import MIOU, measures
from wsi_magnet.evaluate.counts import Counts
from wsi_magnet.metrics.confusion import mean_iou

MEASURES = measures(["a", "b"], [10.0])


def random_counts(seed: int) -> Counts:
    draws = np.random.default_rng(seed)
    near, beyond = draws.integers(1, 50, (2, 1, 2))
    boundary = np.stack([near, near + beyond], axis=-1).reshape(1, 4)
    return Counts(draws.integers(0, 50, (2, 3)), boundary, draws.random((3, 15)))


IMAGES = [random_counts(i) for i in range(6)]
GROUPS = ["c", "a", "b", "a", "c", "c"]


def drawn(counts: list[Counts], seed: int = 0, resamples: int = 50) -> Draws:
    return draw(counts, GROUPS, MEASURES, group_weights(3, resamples, seed))


def test_a_resample_has_as_many_groups_as_there_are() -> None:
    weights = group_weights(7, 500, 0)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2)


def test_resamples_have_a_slow_twin() -> None:
    weights = group_weights(3, 50, 0)
    values = []
    for chosen in weights:
        times = dict(zip("abc", chosen.tolist(), strict=True))
        total = Counts.none(2, 1)
        for image, group in zip(IMAGES, GROUPS, strict=True):
            for _ in range(times[group]):
                total += image
        values.append(float(mean_iou(total.confusion)))
    found = drawn(IMAGES).estimate(MIOU)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    everything = sum(IMAGES, Counts.none(2, 1))
    assert found.value == pytest.approx(float(mean_iou(everything.confusion)))


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    one, same, other = (drawn(IMAGES, seed).estimate(MIOU) for seed in (1, 1, 2))
    assert one == same != other


def test_a_row_does_not_differ_from_itself() -> None:
    found = drawn(IMAGES).difference(drawn(IMAGES), MIOU)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_differences_are_paired() -> None:
    better = [c + Counts(np.array([[30, 0, 0], [0, 30, 0]]), np.zeros((1, 4), int), np.zeros((3, 15))) for c in IMAGES]
    one, other = drawn(better), drawn(IMAGES)
    paired = one.difference(other, MIOU)
    assert paired.low > 0
    unpaired = one.estimate(MIOU).high - other.estimate(MIOU).low
    assert paired.high < unpaired


def test_one_group_has_no_interval() -> None:
    found = draw(IMAGES, ["a"] * 6, MEASURES, group_weights(1, 50, 0)).estimate(MIOU)
    assert found.value > 0
    assert np.isnan([found.low, found.high]).all()


def test_every_measure_is_a_number_between_its_bounds() -> None:
    keys = Counter(one.key for one in MEASURES)
    assert max(keys.values()) == 1
    found = drawn(IMAGES)
    assert {key: value for key, value in found.value.items() if not -1 <= value <= 1} == {}
