"""Progress of a run: a bar on a terminal and in a notebook, lines in a file, and nothing without being asked."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tests.runs import MadeRun
from wsi_magnet import RunConfig, segment_slide
from wsi_magnet.results.events import Event, Note, Observer
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.segment.progress import watching


@pytest.fixture(scope="module")
def events(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    seen: list[Event] = [Note("a <note>")]
    config = RunConfig(tile_px=512)
    out = tmp_path_factory.mktemp("out")
    segment_slide(
        made_run.slide, out, bundle=made_run.bundle, config=config, execution=SerialExecutor(), observe=seen.append
    )
    return seen


def show(observe: Observer, events: list[Event]) -> None:
    for event in events:
        observe(event)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_lines_in_a_file(events: list[Event], terminal: bool) -> None:
    text = io.StringIO()
    with watching(Console(file=text, force_terminal=terminal, width=120, highlight=False)) as observe:
        show(observe, events)
    shown = text.getvalue()
    assert "Note: a <note>" in shown
    assert "0.5 µm/px finished in" in shown
    assert ("100 %" in shown) == terminal
    assert ("\x1b[" in shown) == terminal


class Cell:
    """The output of a notebook's cell, as IPython keeps it."""

    def __init__(self) -> None:
        self.pictures: list[str] = []

    def display(self, picture: str, *, display_id: bool) -> Cell:
        """As `IPython.display.display`."""
        assert display_id
        self.update(picture)
        return self

    def update(self, picture: str) -> None:
        """As the handle's `update`."""
        self.pictures.append(picture)


def test_a_bar_in_a_notebook_needs_no_widgets(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=cell.display, HTML=str))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with watching(Console(file=io.StringIO(), force_jupyter=True)) as observe:
        show(observe, events)
    assert 'value="0.000"' in cell.pictures[0]
    assert 'value="1.000"' in cell.pictures[-1]
    assert "scale 3/3" in cell.pictures[-1]
    assert "<div>Note: a &lt;note&gt;</div>" in cell.pictures[-1]


@pytest.mark.parametrize("progress", [True, False])
def test_a_run_shows_its_progress_where_it_is_asked_to(
    made_run: MadeRun, tmp_path: Path, capfd: pytest.CaptureFixture[str], progress: bool
) -> None:
    seen: list[Any] = []
    options: dict[str, Any] = {
        "bundle": made_run.bundle,
        "execution": SerialExecutor(),
        "config": RunConfig(tile_px=512),
    }
    segment_slide(made_run.slide, tmp_path, **options, progress=progress, observe=seen.append)
    written = capfd.readouterr()
    assert ("0.5 µm/px finished in" in written.err) == progress
    assert written.out == ""
    assert len(seen) > 5
