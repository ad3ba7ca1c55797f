"""Progress of a run, and the time left."""

from __future__ import annotations

import pytest

from wsi_magnet.results.events import Event, RunPlanned, ScaleFinished, ScaleStarted, TileFinished
from wsi_magnet.results.journal import TileResult
from wsi_magnet.results.progress import UPSAMPLED, RunProgress, seconds_left

TILE = TileFinished(TileResult(0, 0, 0, (), {}))


def after(*events: Event) -> RunProgress:
    progress = RunProgress()
    for event in events:
        progress.update(event)
    return progress


def test_progress_follows_the_events_of_a_run() -> None:
    progress, shares = RunProgress(), []
    events: list[Event] = [
        RunPlanned((2, 8), (2, 8), False),
        ScaleStarted(0, 2, 1.0, 2, 1, 2, 2),
        TILE,
        ScaleFinished(0, 1.0, 1.0),
        ScaleStarted(1, 2, 0.5, 4, 0, 8, 8),
        TILE,
        TILE,
    ]
    for event in events:
        progress.update(event)
        shares.append(progress.share)
    assert shares == pytest.approx([0, 0.1, 0.2, 0.2, 0.2, 0.4, 0.6])
    assert not progress.at_most


def test_a_run_without_a_recorded_plan_is_taken_to_have_four_times_the_cells_at_each_scale() -> None:
    assert after(ScaleStarted(1, 3, 1.0, 7, 0, 8, 8)).share == pytest.approx(2 / 42)
    assert after(ScaleStarted(2, 3, 0.5, 16, 8, 32, 32)).share == pytest.approx((2 + 8 + 16) / 42)


def test_no_cells_are_done_at_once() -> None:
    assert after(RunPlanned((0, 0), (0, 0), False), ScaleStarted(0, 2, 1.0, 0, 0, 0, 0)).share == 1


def test_what_was_finished_before_says_nothing_of_the_speed() -> None:
    resumed = after(RunPlanned((10, 40), (10, 40), False), ScaleStarted(1, 2, 0.5, 10, 5, 40, 40))
    assert resumed.share == pytest.approx(30 / 50)
    assert resumed.seconds_left(10) is None
    resumed.update(TILE)  # four patches
    assert resumed.seconds_left(10) == pytest.approx(16 * 10 / 4)


def test_with_auto_finer_scales_are_limits_first_and_then_estimates_from_the_last_choice() -> None:
    planned = RunPlanned((4, 16, 64), (4, 16, 64), True)
    coarse = after(planned, ScaleStarted(0, 3, 2.0, 2, 1, 4, 4))
    assert coarse.at_most
    assert coarse.share == pytest.approx(2 / 84)
    coarse.update(ScaleStarted(1, 3, 1.0, 4, 2, 4, 16))
    assert not coarse.at_most
    refined = [4, 4 + 12 * UPSAMPLED, 16 + 48 * UPSAMPLED]
    assert coarse.share == pytest.approx((refined[0] + refined[1] / 2) / sum(refined))


def test_a_fraction_is_planned_from_the_start() -> None:
    progress = after(RunPlanned((4, 16), (4, 4), False), ScaleStarted(0, 2, 2.0, 4, 0, 4, 4), TILE)
    assert progress.share == pytest.approx(1 / (8 + 12 * UPSAMPLED))
    assert not progress.at_most


def test_time_left_is_known_when_something_is_done() -> None:
    assert seconds_left(0, 5, 10) is None
    assert seconds_left(2, 6, 10) == 30
