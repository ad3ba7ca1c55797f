"""State files: there whole or not at all, read back as they were, and quick for ten thousand slides."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.cohort.test_tables import RUN
from wsi_magnet.cohort import planning
from wsi_magnet.cohort.options import Bundles, CohortOptions
from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.cohort.state import SlideState, States, file_marks, known_names, result_marks
from wsi_magnet.config import RunConfig
from wsi_magnet.results.folder import ResultFolder


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    states = States(tmp_path)
    assert states.read() == {}
    states.make()
    first = SlideState(
        name="b", slide="/s/b.svs", state="failed", attempts=2, error="no", figures={"classes": {"x": 1.5}}
    )
    second = SlideState(name="a", slide="/s/\udcff.svs")
    states.write_all([first, second])
    assert list(states.read().items()) == [("a", second), ("b", first)]
    states.write(first.but(state="running"))
    assert states.read()["b"].state == "running"
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "other"}', '{"format": "wsi-magnet-slide-state", "version": 1}']
)
def test_a_damaged_state_counts_as_not_there(tmp_path: Path, text: str) -> None:
    states = States(tmp_path)
    states.make()
    states.write(SlideState(name="a", slide="/s/a.svs"))
    (tmp_path / ".cohort" / "b.json").write_text(text)
    assert states.read().keys() == {"a"}


def test_values_of_a_newer_program_are_passed_over(tmp_path: Path) -> None:
    states = States(tmp_path)
    states.make()
    states.write(SlideState(name="a", slide="/s/a.svs"))
    path = tmp_path / ".cohort" / "a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "blue"}))
    assert states.read()["a"].slide == "/s/a.svs"


def test_names_are_known_from_states_and_results(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    ResultFolder(tmp_path / "one").write_run(RUN.but(slide=replace(RUN.slide, path="/s/1.svs")))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "notes.txt").touch()
    states = {"two": SlideState(name="two", slide="/s/2.svs")}
    assert dict(known_names(tmp_path, states)) == {"/s/1.svs": "one", "/s/2.svs": "two"}


def test_thousands_of_finished_slides_are_skipped_in_seconds(tmp_path: Path, free_bundle: Path) -> None:
    count = 2_000
    out = tmp_path / "out"
    options = CohortOptions(out, RunConfig(), str(free_bundle))
    asked = Bundles().asked(options.config, options.bundle)
    jobs, made = [], []
    for i in range(count):
        slide, result = tmp_path / f"{i}.svs", out / f"{i}"
        slide.touch()
        result.mkdir(parents=True)
        (result / "run.json").write_text("{}")
        jobs.append(SlideJob.of(slide, "here"))
        size, mtime = file_marks(str(slide))
        marks: dict[str, Any] = {
            "size_bytes": size,
            "mtime_ns": mtime,
            "result_mtime_ns": result_marks(options.out, [f"{i}"])[0],
        }
        made.append(SlideState(name=f"{i}", slide=str(slide), state="finished", asked=asked, **marks))
    states = States(out)
    states.make()
    for state in made:
        (out / ".cohort" / f"{state.name}.json").write_text(_text(state))
    begun = time.process_time()
    read = states.read()
    planned = planning.plan_batch(jobs, options, read, Bundles())
    seconds = time.process_time() - begun
    assert len(planned) == count
    assert not any(one.to_do for one in planned)
    assert seconds < 2, seconds
    (tmp_path / "7.svs").write_text("changed")
    again = planning.plan_batch(jobs, options, read, Bundles())
    assert [one.before.name for one in again if one.to_do] == ["7"]


def _text(state: SlideState) -> str:
    """A state file, without waiting for the disk."""
    return json.dumps({"format": "wsi-magnet-slide-state", "version": 1, **asdict(state)})
