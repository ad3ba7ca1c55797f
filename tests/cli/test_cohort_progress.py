"""Progress of a batch: a line for each slide that ends, and bars on a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from wsi_magnet.cli import cohort_progress
from wsi_magnet.cli.cohort_progress import ended_lines, watching_batch
from wsi_magnet.cohort.events import BatchStarted, BatchWorkers, CohortEvent, SlideEnded, SlideEvent, SlideStarted
from wsi_magnet.cohort.state import ResultMetrics, SlideState
from wsi_magnet.results.events import Note, ScaleStarted, TileFinished
from wsi_magnet.results.grading import Grade
from wsi_magnet.results.journal import CellResult, TileResult
from wsi_magnet.text import rough_duration_text

BAD = tuple(CellResult(0, col, True, ((0, 1),) * 4, f"no JPEG [bold] at byte {col}") for col in range(30))
MISSING = CellResult(1, 0, True, ((0, 1),) * 4, "no tile")
TOLD = ResultMetrics(
    analysed_mm2=4.25,
    classes={"gland": 1.5, "stroma": 2.75},
    gleason=Grade(primary=3, secondary=4, score=7, grade_group=2),
)
A = SlideState(name="a", slide="/s/a.svs", state="running", size_bytes=300)
B = SlideState(name="b[red]", slide="/s/b.svs", state="running", size_bytes=100)
EVENTS: list[CohortEvent] = [
    BatchStarted("again", {}, 6, 3, 500, {"finished": 2, "failed": 1}),
    BatchWorkers("two processes", "http://there", 2, {}),
    SlideStarted(A),
    SlideStarted(B),
    SlideEvent("a", ScaleStarted(1, 2, 0.5, 4, 0, 4, 4)),
    SlideEvent("a", Note("something to know")),
    SlideEvent("a", TileFinished(TileResult(1, 0, 0, BAD, {}))),
    SlideEvent("a", TileFinished(TileResult(1, 1, 0, (*BAD, MISSING), {}))),
    SlideEnded(B.but(state="failed"), "failed", 3.0, ("it is empty",)),
    SlideEnded(
        A.but(state="finished with errors", metrics=TOLD),
        "finished with errors",
        12.0,
        ("60 cells could not be read: no JPEG [bold] at byte 0", "1 cell could not be read: no tile"),
    ),
]


def shown(monkeypatch: pytest.MonkeyPatch, events: list[CohortEvent], *, terminal: bool) -> str:
    text = StringIO()

    def console(**options: object) -> Console:
        return Console(file=text, force_terminal=terminal, width=110, highlight=False, soft_wrap=True)

    monkeypatch.setattr(cohort_progress, "Console", console)
    with watching_batch(["nothing in x"]) as observe:
        for event in events:
            observe(event)
    return text.getvalue()


def test_lines_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, EVENTS, terminal=False).splitlines() == [
        "Note: nothing in x",
        "6 slides, 2 finished before, 1 failed before, 3 to do",
        "Note: slides that failed before are repeated with --retry-failed",
        "Working with two processes, 2 slides at once; dashboard http://there",
        "a: something to know",
        "a: UNREADABLE: no JPEG [bold] at byte 0 (cells are counted at the end)",
        "a: UNREADABLE: no tile (cells are counted at the end)",
        "[1/3] b[red]: FAILED after 3 s: it is empty",
        "[2/3] a: finished with errors, 12 s, 4.25 mm² (gland 1.50 mm², stroma 2.75 mm²), Gleason 3 + 4",
        "a: 60 cells could not be read: no JPEG [bold] at byte 0",
        "a: 1 cell could not be read: no tile",
    ]


def test_bars_where_somebody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, EVENTS[:7], terminal=True)
    assert "all slides" in text
    assert "scale 2/2, 1 of 4 tiles" in text
    assert "opening" in text
    assert "0 of 3, " in text
    assert " left" in text


def test_a_slide_that_was_stopped_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = SlideEnded(A.but(state="waiting"), "stopped", 1.0)
    assert "[1/" not in shown(monkeypatch, [EVENTS[0], SlideStarted(A), stopped], terminal=False)


def test_a_finished_and_a_refused_slide_take_a_line_each() -> None:
    [finished] = ended_lines(SlideEnded(A.but(metrics=TOLD), "finished", 1.0))
    assert finished == "a: finished, 1 s, 4.25 mm² (gland 1.50 mm², stroma 2.75 mm²), Gleason 3 + 4"
    small = ResultMetrics(analysed_mm2=0.012, classes={"gland": 0.0, "stroma": 0.012}, tissue_share=0.5)
    assert ended_lines(SlideEnded(A.but(metrics=small), "finished", 1.0)) == [
        "a: finished, 1 s, 0.012 mm² (stroma 0.012 mm²)"
    ]
    refused = SlideEnded(A, "refused", 0.2, ("its options differ",))
    assert ended_lines(refused) == ["a: REFUSED after 0 s: its options differ"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (7_200, "2 h 0 min"), (20_000, "5 h 33 min"), (400_000, "4.6 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert rough_duration_text(seconds) == text
