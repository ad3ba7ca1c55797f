"""Tiles that only take time: results such as real ones, and the least that a plan takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.simulated import Stand, least_s, makespan


@pytest.mark.parametrize(
    ("durations", "workers", "seconds"),
    [([], 3, 0.0), ([1, 1, 1], 2, 2.0), ([3, 1, 1, 1], 2, 3.0), ([1, 1, 3], 2, 4.0), ([1] * 7, 100, 1.0)],
)
def test_each_is_begun_by_the_first_that_is_free(durations: list[float], workers: int, seconds: float) -> None:
    assert makespan(durations, workers) == seconds


def test_a_stand_has_the_tasks_of_a_plan_and_results_of_their_cells(tmp_path: Path) -> None:
    stand = Stand.made(tmp_path, gigapixels=0.02)
    tasks = list(stand.tasks(100))
    assert len(tasks) == 100
    assert len({task.key for task in tasks}) == int(stand.plan.scales[-1].tiles.sum()) < 100
    result = stand.function(tasks[0])
    assert result.key == tasks[0].key
    assert [(cell.row, cell.col) for cell in result.cells] == [(cell.row, cell.col) for cell in tasks[0].cells]
    patches = sum(int(one.tissue.sum()) for one in stand.plan.scales)
    assert least_s(stand.plan, 1.0, 1) == pytest.approx(patches, rel=0.01), "all of it by one worker"
    assert least_s(stand.plan, 1.0, 1000) < patches / 4
