"""State files: whole or absent, read back as written, and quick for ten thousand slides."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cohort.test_tables import RUN
from wsi_magnet.cohort import planning
from wsi_magnet.cohort.options import Bundles, CohortOptions
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.cohort.state import (
    ResultMetrics,
    SlideState,
    States,
    file_stamp,
    known_names,
    result_stamp,
    result_stamps,
)
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import CohortError
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.grading import Grade
from wsi_magnet.schema import to_json
from wsi_magnet.storage import location
from wsi_magnet.storage.location import Url

OF_0_1_0: dict[str, Any] = {
    "format": "wsi-magnet-slide-state",
    "version": 1,
    "name": "a",
    "slide": "/s/a.svs",
    "state": "finished",
    "size_bytes": 300,
    "mtime_ns": 5,
    "result_mtime_ns": 6,
    "asked": {"config": {"mpp": None, "refine": "all"}, "bundle": "mine", "bundle_sha256": "5ea1"},
    "due": "resume",
    "attempts": 1,
    "seconds": 12,
    "error": None,
    "error_type": None,
    "retry": "wsi-magnet batch /s/a.svs",
    "begun": "2026-01-01T00:00:00+00:00",
    "ended": "2026-01-01T00:00:12+00:00",
    "figures": {
        "bundle": "mine",
        "bundle_sha256": "5ea1",
        "refine": "all",
        "precision": "fp32",
        "slide_mpp": [0.25, 0.25],
        "mpp": 0.5,
        "tissue_share": 0.25,
        "refined_share": None,
        "cells_not_analysed": 0,
        "analysed_mm2": 2,
        "not_analysed_mm2": 0.0,
        "classes": {"Gleason 3": 1.5},
        "gleason": {"primary": 3, "secondary": 4, "score": 7, "grade_group": 2},
    },
}
"""A state file as version 0.1.0 wrote it."""


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    states = States(tmp_path)
    assert states.read() == {}
    states.make()
    metrics = ResultMetrics(classes={"x": 1.5}, slide_mpp=(0.25, 0.25), refine="all")
    first = SlideState(name="b", slide="/s/b.svs", state="failed", attempts=2, error="no", metrics=metrics)
    second = SlideState(name="a", slide="/s/\udcff.svs")
    states.write_all([first, second])
    assert list(states.read().items()) == [("a", second), ("b", first)]
    states.write(first.but(state="running"))
    assert states.read()["b"].state == "running"
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "other"}, "it has no format"),
        ({"version": 2}, "its version is 2, not 1"),
        ({"name": "../b"}, "its name is '../b'"),
        ({"state": "lost"}, "state is 'lost', not one of waiting"),
        ({"attempts": "two"}, "attempts is 'two', not a whole number"),
        ({"seconds": None}, "seconds is None, not a number"),
        ({"due": "later"}, "due is 'later'"),
        ({"asked": []}, r"asked is \[\], not an object"),
        ({"figures": {"classes": {"x": "much"}}}, r"figures\.classes\.x is 'much', not a number"),
        ({"figures": {"slide_mpp": 0.5}}, r"figures\.slide_mpp is 0\.5, not a list"),
        ({"figures": {"gleason": {"primary": 3}}}, r"figures\.gleason: missing field 'grade_group'"),
    ],
)
def test_a_damaged_state_is_an_error_that_names_the_value_and_the_cure(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    states = States(tmp_path)
    states.make()
    states.write(SlideState(name="a", slide="/s/a.svs"))
    path = tmp_path / ".cohort" / "a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CohortError, match=f"a.json is not a slide's state .*{reason}.*; delete it and run"):
        states.read()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe\xff", b"[" * 100_000, b"{}"])
def test_a_state_that_is_no_json_of_ours_is_the_same_error(tmp_path: Path, data: bytes) -> None:
    states = States(tmp_path)
    states.make()
    (tmp_path / ".cohort" / "b.json").write_bytes(data)
    with pytest.raises(CohortError, match=r"b\.json is not a slide's state.*delete it") as caught:
        states.read()
    assert "\n" not in str(caught.value)


def test_a_state_of_version_0_1_0_is_read(tmp_path: Path) -> None:
    states = States(tmp_path)
    states.make()
    (tmp_path / ".cohort" / "a.json").write_text(json.dumps(OF_0_1_0))
    state = states.read()["a"]
    assert (state.state, state.attempts, state.run_params["bundle"]) == ("finished", 1, "mine")
    assert state.metrics.gleason == Grade(primary=3, secondary=4, score=7, grade_group=2)
    assert (state.metrics.slide_mpp, state.metrics.classes) == ((0.25, 0.25), {"Gleason 3": 1.5})
    (tmp_path / ".cohort" / "a.json").write_text(json.dumps({**OF_0_1_0, "state": "waiting", "figures": {}}))
    assert states.read()["a"].metrics == ResultMetrics()


def test_the_stamp_of_one_result_takes_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    out, client = Url("s3", "bucket/out"), CountingStore({"bucket/out/a/run.json"})
    monkeypatch.setattr(location, "filesystem", lambda protocol: client)
    assert result_stamp(out / "a") == 0
    assert client.requests == ["info bucket/out/a/run.json"]
    assert result_stamp(out / "b") == -1
    assert client.requests[1:] == ["info bucket/out/b/run.json"]


class CountingStore:
    """An object store that keeps a list of what it is asked for."""

    def __init__(self, keys: set[str]) -> None:
        self.keys, self.requests = keys, list[str]()

    def info(self, key: str) -> dict[str, Any]:
        """Size and type of an object."""
        self.requests.append(f"info {key}")
        if key not in self.keys:
            raise FileNotFoundError(key)
        return {"type": "file", "size": 2}

    def ls(self, key: str, *, detail: bool) -> list[str]:
        """Objects below a name."""
        self.requests.append(f"ls {key}")
        return [one for one in self.keys if one.startswith(f"{key}/")]


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


def test_finished_slides_are_skipped_in_steps_proportional_to_their_number(tmp_path: Path, free_bundle: Path) -> None:
    few, many = (steps_to_plan(tmp_path / str(count), count, free_bundle) for count in (50, 400))
    assert many < 9 * few, "a quadratic step would take 64 times as many"


def steps_to_plan(folder: Path, count: int, bundle: Path) -> int:
    """Python's and C's functions called to plan a cohort of finished slides; checks that nothing is to be done."""
    out = folder / "out"
    options = CohortOptions(out, RunConfig(), str(bundle))
    params = Bundles().run_params(options.config, options.bundle)
    slides, made = [], []
    for i in range(count):
        slide, result = folder / f"{i}.svs", out / f"{i}"
        result.mkdir(parents=True)
        slide.touch()
        (result / "run.json").write_text("{}")
        slides.append(CohortSlide.of(slide, "here"))
        size, mtime = file_stamp(str(slide))
        stamps: dict[str, Any] = {
            "size_bytes": size,
            "mtime_ns": mtime,
            "result_mtime_ns": result_stamps(options.out, [f"{i}"])[0],
        }
        made.append(SlideState(name=f"{i}", slide=str(slide), state="finished", run_params=params, **stamps))
    states = States(out)
    states.make()
    for state in made:
        (out / ".cohort" / f"{state.name}.json").write_text(_text(state))
    steps = 0

    def count_calls(frame: object, event: str, argument: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    threading.setprofile(count_calls)
    sys.setprofile(count_calls)
    try:
        read = states.read()
        planned = planning.plan_batch(slides, options, read, Bundles())
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert len(planned) == count
    assert not any(one.to_do for one in planned)
    (folder / "7.svs").write_text("changed")
    again = planning.plan_batch(slides, options, read, Bundles())
    assert [one.before.name for one in again if one.to_do] == ["7"]
    return steps


def _text(state: SlideState) -> str:
    """A state file, without waiting for the disk."""
    return json.dumps({"format": "wsi-magnet-slide-state", "version": 1, **to_json(state)})


def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    states = States(tmp_path)
    states.make()
    states.write(SlideState(name="a", slide="/s/a.svs"))
    path = tmp_path / ".cohort" / "a.json"
    path.write_text(path.read_text().replace("/s/a.svs", "\\u0000"))
    with pytest.raises(CohortError, match="cannot be a file's path"):
        states.read()
