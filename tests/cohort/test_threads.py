"""Threads that process slide after slide: their number, their end, and that a hung one is not waited for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from wsi_magnet.cohort import threads as threads_module
from wsi_magnet.cohort.events import SlideEnded
from wsi_magnet.cohort.planning import Planned
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.cohort.state import SlideState
from wsi_magnet.cohort.threads import SlideThreads
from wsi_magnet.cohort.workers import InFlightLimit, enough_in_flight
from wsi_magnet.errors import ClusterError
from wsi_magnet.runtime.serial import SerialExecutor


def slides(count: int) -> list[Planned]:
    slide = CohortSlide.of(Path("/s/a.svs"), "here")
    return [Planned(i, slide, SlideState(name=str(i), slide=slide.path), {}, True) for i in range(count)]


def ended(planned: Planned) -> SlideEnded:
    return SlideEnded(planned.before, "finished", 0.0)


def test_every_slide_is_taken_once_and_in_order() -> None:
    begun: list[int] = []

    def do(planned: Planned) -> SlideEnded:
        begun.append(planned.position)
        return ended(planned)

    threads = SlideThreads(do, threading.Event())
    assert sorted(int(one.state.name) for one in threads.run(slides(20), lambda: 1)) == list(range(20))
    assert begun == list(range(20))


def test_an_error_is_raised_and_ends_the_others() -> None:
    begun: list[int] = []

    def do(planned: Planned) -> SlideEnded:
        begun.append(planned.position)
        if planned.position == 1:
            raise ClusterError("gone")
        return ended(planned)

    stopping = threading.Event()
    threads = SlideThreads(do, stopping)
    with pytest.raises(ClusterError, match="gone"):
        list(threads.run(slides(5), lambda: 1))
    threads.stop()
    assert stopping.is_set()
    assert list(threads.drain(5)) == []
    assert begun == [0, 1]


def test_slides_that_end_after_the_stop_are_yielded_and_hung_ones_left() -> None:
    go_on, hangs = threading.Event(), threading.Event()

    def do(planned: Planned) -> SlideEnded:
        if planned.position == 0:
            raise ClusterError("gone")
        if planned.position == 1:
            go_on.wait(90)
        else:
            hangs.wait(90)
        return ended(planned)

    threads = SlideThreads(do, threading.Event())
    with pytest.raises(ClusterError):
        list(threads.run(slides(3), lambda: 3))
    threads.stop()
    go_on.set()
    assert [one.state.name for one in threads.drain(2.0)] == ["1"]
    hangs.set()


def test_more_slides_are_started_as_workers_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "RECHECK_S", 0.05)
    both = threading.Barrier(2, timeout=90)
    asked = iter([1, 1, 2])

    def do(planned: Planned) -> SlideEnded:
        both.wait()
        return ended(planned)

    assert len(list(SlideThreads(do, threading.Event()).run(slides(2), lambda: next(asked, 2)))) == 2


def test_slides_in_flight_for_a_number_of_slots() -> None:
    assert [enough_in_flight(slots) for slots in (1, 15, 16, 64, 1000)] == [2, 2, 3, 6, 16]


def test_an_unreachable_scheduler_does_not_change_the_limit() -> None:
    class Cluster(SerialExecutor):
        now = 32

        @property
        def slots(self) -> int:  # type: ignore[override]
            if not self.now:
                raise ClusterError("gone")
            return self.now

    cluster = Cluster()
    in_flight = InFlightLimit(None, cluster)
    assert in_flight() == 4
    cluster.now = 0
    assert in_flight() == 4
    cluster.now = 1
    assert in_flight() == 4
    assert InFlightLimit(7, cluster)() == 7
