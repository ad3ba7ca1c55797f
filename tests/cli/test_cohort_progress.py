"""Progress of a batch: a line for each slide that ends, and bars on a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from wsi_magnet.cli import cohort_progress
from wsi_magnet.cli.cohort_progress import ended_text, watching_batch
from wsi_magnet.cohort.events import BatchBegun, BatchWorkers, CohortEvent, SlideBegun, SlideEnded, SlideTold
from wsi_magnet.cohort.state import Grade, ResultMetrics, SlideState
from wsi_magnet.results.events import Note, ScaleStarted, TileFinished
from wsi_magnet.results.journal import CellResult, TileResult
from wsi_magnet.text import rough_duration_text

BAD = tuple(CellResult(0, col, True, ((0, 1),) * 4, "no JPEG [bold]") for col in range(5))
TOLD = ResultMetrics(
    analysed_mm2=4.25,
    classes={"gland": 1.5, "stroma": 2.75},
    gleason=Grade(primary=3, secondary=4, score=7, grade_group=2),
)
A = SlideState(name="a", slide="/s/a.svs", state="running", size_bytes=300)
B = SlideState(name="b[red]", slide="/s/b.svs", state="running", size_bytes=100)
EVENTS: list[CohortEvent] = [
    BatchBegun("again", {}, 6, 3, 500, {"finished": 2, "failed": 1}),
    BatchWorkers("two processes", "http://there", 2, {}),
    SlideBegun(A),
    SlideBegun(B),
    SlideTold("a", ScaleStarted(1, 2, 0.5, 4, 0, 4, 4)),
    SlideTold("a", Note("something to know")),
    SlideTold("a", TileFinished(TileResult(1, 0, 0, BAD, {}))),
    SlideEnded(B.but(state="failed"), "failed", 3.0, "it is empty"),
    SlideEnded(A.but(state="finished", figures=TOLD), "finished", 12.0),
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
        "Note: what failed before is done again with --retry-failed",
        "Working with two processes, 2 slides at once; dashboard http://there",
        "a: something to know",
        *(f"a: NOT ANALYSED: row 0, column {col}: no JPEG [bold]" for col in range(3)),
        "a: further cells are listed in its run.json",
        "[1/3] b[red]: FAILED after 3 s: it is empty",
        "[2/3] a: finished, 12 s, 4.2 mm² (gland 1.5, stroma 2.8), Gleason 3 + 4",
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
    assert "[1/" not in shown(monkeypatch, [EVENTS[0], SlideBegun(A), stopped], terminal=False)


def test_a_slide_with_unreadable_cells_says_so() -> None:
    ended = SlideEnded(A.but(figures=TOLD), "finished with errors", 1.0, "3 cells could not be analysed")
    assert ended_text(ended).endswith("Gleason 3 + 4; 3 cells could not be analysed")
    refused = SlideEnded(A, "refused", 0.2, "made otherwise")
    assert ended_text(refused) == "a: REFUSED after 0 s: made otherwise"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (7_200, "2 h 0 min"), (20_000, "5 h 33 min"), (400_000, "4.6 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert rough_duration_text(seconds) == text
