"""Threads that take slide after slide: how many, what ends them, and that nobody is waited for who hangs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from wsi_magnet.cohort import threads as crews
from wsi_magnet.cohort.events import SlideEnded
from wsi_magnet.cohort.planning import Planned
from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.cohort.state import SlideState
from wsi_magnet.cohort.threads import Crew
from wsi_magnet.cohort.workers import InFlight, enough_in_flight
from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.serial import SerialExecutor


def slides(count: int) -> list[Planned]:
    job = SlideJob.of(Path("/s/a.svs"), "here")
    return [Planned(i, job, SlideState(name=str(i), slide=job.slide), {}, True) for i in range(count)]


def ended(planned: Planned) -> SlideEnded:
    return SlideEnded(planned.before, "finished", 0.0)


def test_every_slide_is_taken_once_and_in_order() -> None:
    begun: list[int] = []

    def do(planned: Planned) -> SlideEnded:
        begun.append(planned.position)
        return ended(planned)

    crew = Crew(do, threading.Event())
    assert sorted(int(one.state.name) for one in crew.run(slides(20), lambda: 1)) == list(range(20))
    assert begun == list(range(20))


def test_an_error_is_raised_and_ends_the_others() -> None:
    begun: list[int] = []

    def do(planned: Planned) -> SlideEnded:
        begun.append(planned.position)
        if planned.position == 1:
            raise ClusterError("gone")
        return ended(planned)

    stopping = threading.Event()
    crew = Crew(do, stopping)
    with pytest.raises(ClusterError, match="gone"):
        list(crew.run(slides(5), lambda: 1))
    crew.stop()
    assert stopping.is_set()
    assert list(crew.last(5)) == []
    assert begun == [0, 1]


def test_slides_that_ended_after_the_stop_are_counted_and_who_hangs_is_left() -> None:
    go_on, hangs = threading.Event(), threading.Event()

    def do(planned: Planned) -> SlideEnded:
        if planned.position == 0:
            raise ClusterError("gone")
        if planned.position == 1:
            go_on.wait(10)
        else:
            hangs.wait(10)
        return ended(planned)

    crew = Crew(do, threading.Event())
    with pytest.raises(ClusterError):
        list(crew.run(slides(3), lambda: 3))
    crew.stop()
    go_on.set()
    begun = time.monotonic()
    assert [one.state.name for one in crew.last(0.5)] == ["1"]
    assert time.monotonic() - begun < 5
    hangs.set()


def test_more_slides_are_begun_as_workers_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "ASK_AGAIN_S", 0.05)
    both = threading.Barrier(2, timeout=10)
    asked = iter([1, 1, 2])

    def do(planned: Planned) -> SlideEnded:
        both.wait()
        return ended(planned)

    assert len(list(Crew(do, threading.Event()).run(slides(2), lambda: next(asked, 2)))) == 2


def test_how_many_are_enough() -> None:
    assert [enough_in_flight(slots) for slots in (1, 15, 16, 64, 1000)] == [2, 2, 3, 6, 16]


def test_a_scheduler_that_is_away_does_not_change_how_many() -> None:
    class Cluster(SerialExecutor):
        now = 32

        @property
        def slots(self) -> int:  # type: ignore[override]
            if not self.now:
                raise ClusterError("gone")
            return self.now

    cluster = Cluster()
    in_flight = InFlight(None, cluster)
    assert in_flight() == 4
    cluster.now = 0
    assert in_flight() == 4
    cluster.now = 1
    assert in_flight() == 4
    assert InFlight(7, cluster)() == 7
