"""Results and inputs in the output folder are kept."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.cohort.made import Batches, write_slide
from tests.few import slow_except
from wsi_magnet.cli.main import main
from wsi_magnet.cohort.events import BatchNote, CohortEvent, SlideEnded, SlideEvent
from wsi_magnet.cohort.inputs import Inputs
from wsi_magnet.cohort.options import CohortOptions
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.cohort.state import States
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import CohortError
from wsi_magnet.results.events import ScaleStarted, TileFinished
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.storage.location import Url

OTHER = RunConfig(tile_px=512, refine=0.5)


def typed(command: str) -> int:
    """The exit code of a command as it was printed, in this process."""
    name, *words = shlex.split(command)
    assert name == "wsi-magnet"
    return CliRunner().invoke(main, [*words, "--workers", "1"]).exit_code


@pytest.mark.parametrize("existing", ["resume", "overwrite"])
def test_slides_of_a_batch_are_no_result_of_another(batches: Batches, existing: Any) -> None:
    write_slide(batches.slides / "case12.tif", 1)
    inside = write_slide(batches.slides / "case12" / "x.tif", 2)
    before = inside.read_bytes()
    beside = replace(batches, out=batches.slides)
    summary = beside.run(existing=existing)
    assert summary.all_well
    assert list(summary.states) == ["x", "slides-case12"]
    assert inside.read_bytes() == before
    assert list(beside.run(existing=existing).states) == ["x", "slides-case12"]


def test_slides_inside_a_result_are_refused_before_anything_is_deleted(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif", 1)
    batches.run()
    inside = write_slide(batches.folder / "a" / "x.tif", 2)
    for existing in ("restart", "overwrite"):
        batches.slides = batches.folder.parent
        summary = batches.run("slides", "out/a/x.tif", existing=existing)
        assert summary.states["x"].state == "finished"
        assert summary.states["a"].state == "finished", "its result is what it was"
        assert f"{inside}, which this batch reads, lies where a result would go" in summary.refused["a"]
        assert "--overwrite" not in summary.refused["a"]
        assert inside.exists()


def inputs(out: Path | Url, *paths: Path, **options: Any) -> Inputs:
    return Inputs([CohortSlide.of(path, "here") for path in paths], CohortOptions(out, **options))


def test_parts_lists_bundles_and_links_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "out" / "linked").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    out = tmp_path / "out"
    (out / "b").symlink_to(tmp_path / "far")
    (tmp_path / "way").symlink_to(out / "linked")
    found = inputs(
        out,
        out / "case.mrxs",
        tmp_path / "far" / "x.svs",
        tmp_path / "way" / "deep" / "y.svs",
        bundle=str(out / "weights" / "free.safetensors"),
    )
    assert found.inside("case") == str(out / "case")
    assert found.inside("b") == str(tmp_path / "far" / "x.svs"), "by a link to where it lies"
    assert found.inside("linked") == str(tmp_path / "way" / "deep" / "y.svs")
    assert found.inside("weights")
    assert found.inside("c") is None
    assert {"case", "case.mrxs", "linked", "weights"} <= found.reserved_names().keys()
    listed = replace(CohortSlide.of(tmp_path / "z.svs", "list"), listed_in=str(out / "lists" / "l.csv"))
    assert Inputs([listed], CohortOptions(out)).inside("lists") == str(out / "lists" / "l.csv")
    assert inputs(Url("s3", "bucket"), tmp_path / "far" / "x.svs").reserved_names() == {}


def test_a_list_where_the_table_goes_is_refused(tmp_path: Path) -> None:
    slide = replace(CohortSlide.of(tmp_path / "z.svs", "list"), listed_in=str(tmp_path / "summary.csv"))
    with pytest.raises(CohortError, match=r"summary\.csv would be overwritten by the batch's table"):
        Inputs([slide], CohortOptions(tmp_path))


@pytest.mark.slow
def test_a_damaged_run_json_is_refused_with_a_cure_that_works(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    batches.run()
    first = States(batches.out).read()["a"]
    (batches.folder / "a" / "run.json").write_text("{")
    again: list[dict[str, Any]] = [{}, {"retry_failed": True}, {"existing": "restart"}]
    for options in again:
        summary = batches.run(**options)
        assert "run.json is damaged" in summary.refused["a"]
        assert (summary.states["a"], summary.all_well) == (first, False)
    assert typed(summary.refused["a"].partition("to rebuild this slide alone: ")[2]) == 0
    assert batches.run().all_well


@pytest.mark.slow
def test_a_mask_that_is_gone_is_rebuilt_by_the_printed_command(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    batches.run()
    shutil.rmtree(batches.folder / "a" / "mask.ome.zarr")
    (batches.folder / "a" / "run.json").touch()
    state = batches.run().states["a"]
    assert state.state == "failed"
    assert typed(state.retry) == 0
    assert batches.run().all_well


def test_results_that_no_batch_made_are_refused_and_kept(batches: Batches) -> None:
    slide = write_slide(batches.slides / "a.tif")
    made: dict[str, Any] = {"bundle": batches.bundle, "execution": SerialExecutor()}
    segment_slide(slide, batches.out, config=RunConfig(tile_px=512), **made)
    summary = batches.run(config=OTHER)
    assert "--refine was auto and is 0.5" in summary.refused["a"]
    assert (summary.states["a"].state, bool(summary.states["a"].metrics.classes)) == ("finished", True)
    assert batches.run(config=OTHER).refused.keys() == {"a"}, "it is not taken for one with these options"
    again = batches.run()
    assert again.all_well
    assert not [event for event in batches.of_kind(SlideEvent) if isinstance(event.event, TileFinished)]


def test_a_slide_that_failed_with_other_options_is_repeated(batches: Batches) -> None:
    (batches.slides / "a.svs").write_bytes(b"")
    batches.run()
    assert batches.run().worked_on == 0
    assert batches.run(config=OTHER).worked_on == 1


def stop_after(ended: int, tiles: int) -> Callable[[CohortEvent], None]:
    """An observer that stops a batch with a tile of the slide after so many that have ended."""
    seen = {"ended": 0, "tiles": 0}

    def observe(event: CohortEvent) -> None:
        if isinstance(event, SlideEnded):
            seen["ended"] += 1
        if isinstance(event, SlideEvent) and not isinstance(event.event, ScaleStarted) and seen["ended"] == ended:
            seen["tiles"] += isinstance(event.event, TileFinished)
            if seen["tiles"] == tiles:
                raise KeyboardInterrupt

    return observe


@pytest.mark.parametrize(
    ("config", "existing", "tiles"),
    slow_except(
        [(OTHER, "restart", 2)],
        [
            (config, existing, tiles)
            for config, existing in [(RunConfig(tile_px=512), "restart"), (OTHER, "restart"), (OTHER, "overwrite")]
            for tiles in (0, 2)  # not yet emptied, and restarted
        ],
    ),
)
def test_a_restart_that_was_stopped_is_resumed(batches: Batches, config: RunConfig, existing: Any, tiles: int) -> None:
    for i in range(3):
        write_slide(batches.slides / f"{i}.tif", i)
    batches.run()
    batches.observer = stop_after(1, tiles)
    with pytest.raises(KeyboardInterrupt):
        batches.run(config=config, existing=existing, in_flight=1)
    states = States(batches.out).read()
    assert [(state.state, state.pending_action) for state in states.values()] == [
        ("finished", "resume"),
        ("waiting", "resume" if tiles else existing),
        ("waiting", existing),
    ]
    batches.observer = None
    summary = batches.run(config=config)
    assert (summary.all_well, summary.worked_on, summary.refused) == (True, 2, {})
    done = [e.name for e in batches.of_kind(SlideEvent) if isinstance(e.event, TileFinished)]
    assert done.count("2") == len([n for n in done if n == "1"]) + tiles, "a restart is resumed"
    refined = {json.loads((batches.folder / str(i) / "run.json").read_text())["config"]["refine"] for i in range(3)}
    assert refined == {config.to_json()["refine"]}
    assert batches.run(config=config).worked_on == 0


def test_a_restart_is_remembered_only_for_its_options(batches: Batches) -> None:
    for i in range(2):
        write_slide(batches.slides / f"{i}.tif", i)
    batches.run()
    batches.observer = stop_after(0, 0)
    with pytest.raises(KeyboardInterrupt):
        batches.run(config=OTHER, existing="restart", in_flight=1)
    batches.observer = None
    assert batches.run().all_well, "the results that are there are those of these options"
    assert not [event for event in batches.of_kind(SlideEvent) if isinstance(event.event, TileFinished)]


def test_a_finished_slide_whose_file_is_away_stays_finished(batches: Batches) -> None:
    slide = write_slide(batches.slides / "a.tif")
    batches.run()
    first = States(batches.out).read()["a"]
    slide.rename(batches.slides / "a.away")
    summary = batches.run("a.tif")
    assert (summary.states["a"], summary.worked_on, summary.all_well) == (first, 0, True)
    assert "1 finished slide without a file, whose results stay; first: " in batches.of_kind(BatchNote)[0].text
    other = batches.run("a.tif", config=OTHER)
    assert (other.states["a"], other.all_well) == (first, False)
    assert "no such file" in other.refused["a"]
    shutil.rmtree(batches.folder / "a")
    assert batches.run("a.tif").states["a"].state == "failed", "nothing is left of it"


def test_a_slide_to_be_repeated_is_waiting_until_then(batches: Batches) -> None:
    for i in range(2):
        (batches.slides / f"{i}.svs").write_bytes(b"")
    batches.run()
    seen: list[str] = []

    def observe(event: CohortEvent) -> None:
        if isinstance(event, SlideEnded):
            seen.append(States(batches.out).read()["1"].state)
            raise KeyboardInterrupt

    batches.observer = observe
    with pytest.raises(KeyboardInterrupt):
        batches.run(retry_failed=True, in_flight=1)
    assert seen[0] == "waiting"
    batches.observer = None
    assert batches.run().worked_on >= 1, "the command that goes on has no --retry-failed"
