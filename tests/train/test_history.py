"""History of a stage: the best step, patience, and equal rows after a checkpoint."""

from __future__ import annotations

import json

import pytest

from wsi_magnet.train.history import History, Row, to_csv


def validations(*mious: float | None) -> History:
    """A history with these validations, a step each."""
    return History([Row(i + 1, 1 / (i + 1), 0.01, miou, 0.5) for i, miou in enumerate(mious)])


def test_the_best_is_the_first_of_the_highest() -> None:
    best = validations(0.2, None, 0.5, 0.5, 0.4).best
    assert best is not None
    assert best.step == 3


def test_without_a_look_there_is_no_best() -> None:
    assert validations(None, None).best is None


@pytest.mark.parametrize(("miou", "better"), [(0.49, False), (0.5, False), (0.51, True)])
def test_only_more_is_better(miou: float, better: bool) -> None:
    assert validations(0.2, 0.5, 0.3).is_best(9, miou) is better


def test_the_first_look_is_the_best_so_far_even_at_0() -> None:
    assert validations(None).is_best(9, 0.0)


@pytest.mark.parametrize(("mious", "stale"), [((0.5,), False), ((0.5, 0.4), False), ((0.5, 0.4, 0.5), True)])
def test_stale_is_after_so_many_looks_that_were_no_better(mious: tuple[float, ...], stale: bool) -> None:
    assert validations(*mious).stale(2) is stale


def test_nothing_is_stale_before_a_look() -> None:
    assert not validations(None, None, None).stale(1)


def test_rows_come_back_through_json() -> None:
    history = validations(None, 0.1234567, None)
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history


def test_the_csv_has_a_row_a_step_and_no_times() -> None:
    lines = to_csv({"backbone": validations(None, 0.25), "refiners": validations(0.5)}).splitlines()
    assert lines == [
        "stage,step,loss,learning_rate,validation_miou",
        "backbone,1,1,0.01,",
        "backbone,2,0.5,0.01,0.250000",
        "refiners,1,1,0.01,0.500000",
    ]
