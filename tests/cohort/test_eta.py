"""Progress of a slide, and the time left."""

from __future__ import annotations

import pytest

from wsi_magnet.cohort.eta import SlideProgress, seconds_left, share_done
from wsi_magnet.results.events import Event, ScaleFinished, ScaleStarted, TileFinished
from wsi_magnet.results.journal import TileResult


def test_a_scale_is_four_times_the_work_of_the_one_before() -> None:
    assert share_done(0, 1, 1, 2) == 0.5
    assert share_done(1, 2, 0, 7) == pytest.approx(0.2)
    assert share_done(2, 3, 8, 16) == pytest.approx((1 + 4 + 8) / 21)
    assert share_done(2, 3, 16, 16) == share_done(2, 3, 0, 0) == 1


def test_progress_follows_the_events_of_a_run() -> None:
    progress = SlideProgress()
    shares = [progress.share]
    tile = TileFinished(TileResult(0, 0, 0, (), {}))
    events: list[Event] = [
        ScaleStarted(0, 2, 1.0, 2, 1, 2, 2),
        tile,
        ScaleFinished(0, 1.0, 1.0),
        ScaleStarted(1, 2, 0.5, 4, 0, 4, 4),
        tile,
        tile,
    ]
    for event in events:
        progress.update(event)
        shares.append(progress.share)
    assert shares == pytest.approx([0, 0.1, 0.2, 0.2, 0.2, 0.4, 0.6])


def test_time_left_is_known_when_something_is_done() -> None:
    assert seconds_left(0, 5, 10) is None
    assert seconds_left(2, 6, 10) == 30
