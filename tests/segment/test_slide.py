"""The whole flow: the same mask whatever the tiles, workers and interruptions; every pixel in its place."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.annotations.made import feature, square, write_geojson
from tests.few import slow_except
from tests.runs import MadeRun, free_spec, labels_of, run_serially, write_bundle
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import ResultBusyError, ResultMismatchError
from wsi_magnet.results.events import Event, TileFinished
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.runtime.types import Executor
from wsi_magnet.segment.slide import _parts, segment_slide
from wsi_magnet.worker.tasks import RunInspect

Labels = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def reference(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result folder of a serial run with everything kept."""
    config = RunConfig(tile_px=512, keep_probabilities=True, keep_uncertainty=True)
    return run_serially(made_run, tmp_path_factory.mktemp("reference"), config).folder


def test_the_mask_has_every_class(reference: Path) -> None:
    assert set(np.unique(labels_of(reference)).tolist()) >= {1, 2, 3}, "the comparisons below must be able to fail"


@pytest.mark.parametrize("tile_px", slow_except([1024], [1024, 2048]))
def test_tiles_do_not_matter(made_run: MadeRun, reference: Path, tmp_path: Path, tile_px: int) -> None:
    config = RunConfig(tile_px=tile_px, keep_probabilities=True, keep_uncertainty=True)
    folder = run_serially(made_run, tmp_path, config).folder
    for product in ("mask", "probabilities", "uncertainty"):
        for level in range(3):
            assert (labels_of(folder, level, product) == labels_of(reference, level, product)).all()


@pytest.mark.slow
@pytest.mark.parametrize("refine", slow_except(["auto"], [0.3, "auto"]))
def test_tiles_do_not_matter_where_only_a_part_is_refined(made_run: MadeRun, tmp_path: Path, refine: Any) -> None:
    choosy = MadeRun(made_run.slide, write_bundle(tmp_path / "choosy.safetensors", free_spec(refine_above=(0.4, 0.55))))
    done = [
        run_serially(choosy, tmp_path / str(tile), RunConfig(tile_px=tile, refine=refine)) for tile in (512, 1024, 2048)
    ]
    finer = done[0].summary["scales"][1:]
    assert 0 < sum(one["cells_refined"] for one in finer) < sum(one["cells"] for one in finer)
    masks = [labels_of(one.folder) for one in done]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] == masks[2]).all()


@pytest.mark.parametrize("workers", slow_except([None], [None, 1, 2, 3]))
def test_workers_do_not_matter(made_run: MadeRun, reference: Path, tmp_path: Path, workers: int | None) -> None:
    execution = Execution("cpu", workers)
    config = RunConfig(tile_px=512)
    summary = segment_slide(made_run.slide, tmp_path, bundle=made_run.bundle, config=config, execution=execution)
    assert (labels_of(summary.folder) == labels_of(reference)).all()


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A Dask scheduler with two workers, started by hand as a user would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    start = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = [sys.executable, "-m", "dask", "worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    processes = [subprocess.Popen(c, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for c in (start, worker)]
    from distributed import Client

    try:
        with Client(address, timeout="120s") as client:
            client.wait_for_workers(2, timeout=120)
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)


@pytest.mark.slow
def test_a_cluster_started_separately(made_run: MadeRun, reference: Path, tmp_path: Path, scheduler: str) -> None:
    summary = segment_slide(
        made_run.slide, tmp_path, bundle=made_run.bundle, execution=Execution("cpu", scheduler=scheduler)
    )
    assert (labels_of(summary.folder) == labels_of(reference)).all()


def test_ngff_05_holds_the_same_pixels(made_run: MadeRun, reference: Path, tmp_path: Path) -> None:
    folder = run_serially(made_run, tmp_path, RunConfig(ngff="0.5")).folder
    for level in range(3):
        assert (labels_of(folder, level) == labels_of(reference, level)).all()
    assert json.loads((folder / "mask.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]["version"] == "0.5"


@pytest.mark.slow
def test_the_shipped_bundle_on_real_tissue(demo_slide: Path, tmp_path: Path) -> None:
    masks = []
    ways: list[tuple[int, Execution | Executor]] = [
        (512, SerialExecutor()),
        (2048, SerialExecutor()),
        (1024, Execution("cpu", 2)),
    ]
    for tile_px, execution in ways:
        config = RunConfig(tile_px=tile_px, mpp=0.93)
        summary = segment_slide(demo_slide, tmp_path / str(tile_px), config=config, execution=execution)
        masks.append(labels_of(summary.folder))
    assert {1, 6} <= set(np.unique(masks[0]).tolist())
    assert (masks[0] == masks[1]).all()
    assert (masks[0] == masks[2]).all()


def test_typed_again_it_says_so_and_does_nothing(made_run: MadeRun, tmp_path: Path) -> None:
    first = run_serially(made_run, tmp_path)
    files = {p: p.stat().st_mtime_ns for p in first.folder.rglob("*") if p.is_file()}
    again = segment_slide(
        made_run.slide, tmp_path, bundle=made_run.bundle, config=RunConfig(tile_px=512), execution=RaisingExecutor()
    )
    assert again.done_before
    assert again.summary == first.summary
    changed = {p.name for p, t in files.items() if p.stat().st_mtime_ns != t}
    assert changed <= {".owner", ".lock"}


class RaisingExecutor(SerialExecutor):
    """Opens slides and computes nothing: a finished result needs no search for tissue either."""

    def map(self, function: Any, tasks: Any, **options: Any) -> Any:
        """Opening a slide only."""
        assert isinstance(function, RunInspect), "something was computed"
        return super().map(function, tasks, **options)


class Stopped(Exception):
    """Somebody pulled the plug."""


def stop_after(tiles: int) -> Any:
    """An observer that stops the run after so many tiles."""
    seen: list[Event] = []

    def observe(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(e, TileFinished) for e in seen) == tiles:
            raise Stopped

    return observe


@pytest.mark.parametrize("tiles", slow_except([3], [1, 3, 8]))
def test_a_stopped_run_leaves_a_valid_mask_and_goes_on(
    made_run: MadeRun, reference: Path, tmp_path: Path, tiles: int
) -> None:
    with pytest.raises(Stopped):
        run_serially(made_run, tmp_path, observe=stop_after(tiles))
    folder = tmp_path / made_run.slide.stem
    attributes = json.loads((folder / "mask.ome.zarr" / ".zattrs").read_text()) if tiles > 1 else {}
    for dataset in attributes.get("multiscales", [{"datasets": []}])[0]["datasets"]:
        assert labels_of(folder, int(dataset["path"])).any(), "the mask shows a scale that is not there"
    seen: list[Event] = []
    run_serially(made_run, tmp_path, observe=seen.append)
    every = json.loads((reference / "run.json").read_text())["summary"]["scales"]
    assert sum(isinstance(e, TileFinished) for e in seen) == sum(p["tiles"] for p in every) - tiles
    assert (labels_of(folder) == labels_of(reference)).all()


def spoil(journal: Path, start: str) -> None:
    """Damage a byte of the first line that begins so."""
    lines = journal.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith(start.encode()))
    lines[at] = lines[at][:10] + b"\xff" + lines[at][11:]
    journal.write_bytes(b"".join(lines))


LINES = [
    '{"scale":2}',
    '{"scale":"2"}',
    '{"scale":1e999}',
    "[" * 100_000,
    '{"tile":[2,-1,0],"cells":[],"labels":{},"s":{},"worker":""}',
    '{"tile":[2,1,0],"cells":[],"labels":{},"s":{},"worker":""}',
    '{"tile":[2,99,0],"cells":[[99,0,1,[[1,1],[1,1],[1,1],[1,1]],null]],"labels":{},"s":{},"worker":""}',
]


@pytest.mark.parametrize("line", slow_except([LINES[0], LINES[-1]], LINES), ids=lambda line: line[:30])
def test_a_foreign_line_in_the_journal_of_a_stopped_run_changes_nothing(
    made_run: MadeRun, stopped: Path, reference: Path, tmp_path: Path, line: str
) -> None:
    folder = tmp_path / made_run.slide.stem
    shutil.copytree(stopped, folder)
    with (folder / "journal.jsonl").open("a") as file:
        file.write(line + "\n")
    run_serially(made_run, tmp_path)
    assert (labels_of(folder) == labels_of(reference)).all()
    scales = [json.loads((one / "summary.json").read_text())["scales"] for one in (folder, reference)]
    assert [[s[k] for k in ("cells", "tiles", "mean_uncertainty")] for s in scales[0]] == [
        [s[k] for k in ("cells", "tiles", "mean_uncertainty")] for s in scales[1]
    ]


def test_tiles_that_a_damaged_journal_lacks_are_computed_again(
    made_run: MadeRun, stopped: Path, reference: Path, tmp_path: Path
) -> None:
    folder, notes = tmp_path / made_run.slide.stem, []
    shutil.copytree(stopped, folder)
    spoil(folder / "journal.jsonl", '{"tile":[0,')
    run_serially(made_run, tmp_path, observe=lambda event: notes.append(str(event)))
    assert any("is damaged: 1 of 1 tiles of" in note for note in notes)
    assert (labels_of(folder) == labels_of(reference)).all()


def test_a_damaged_journal_whose_coarser_probabilities_are_gone_is_refused(
    made_run: MadeRun, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / made_run.slide.stem
    shutil.copytree(finished, folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "state": "running", "summary": None}))
    spoil(folder / "journal.jsonl", '{"tile":[2,')
    with pytest.raises(ResultMismatchError, match="--restart"):
        run_serially(made_run, tmp_path)


@pytest.fixture(scope="module")
def stopped(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after two scales and some tiles of the third; tests copy it."""
    out = tmp_path_factory.mktemp("stopped")
    plan = json.loads((run_serially(made_run, out / "whole").folder / "summary.json").read_text())
    coarser = sum(one["tiles"] for one in plan["scales"][:2])
    with pytest.raises(Stopped):
        run_serially(made_run, out, observe=stop_after(coarser + 2))
    return out / made_run.slide.stem


@pytest.fixture(scope="module")
def finished(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, which the tests below must leave as it is."""
    return run_serially(made_run, tmp_path_factory.mktemp("finished")).folder


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"refine": 0.2}, "--refine was auto and is 0.2"),
    ({"tile_px": 1024}, "--tile was 512 and is 1024"),
    ({"ngff": "0.5"}, "--ngff was 0.4 and is 0.5"),
    ({"keep_uncertainty": True}, "--keep was nothing and is uncertainty"),
    ({"mpp": 0.3}, "--mpp"),
    ({"tissue": False}, "--tissue was on and is off"),
    ({"precision": "bf16"}, "--precision was auto and is bf16"),
    ({"batch_size": 2}, "--batch-size was auto and is 2"),
    ({"method": "patching"}, "--method was MagNet and is Patching"),
    ({"keep_probabilities": True}, "--keep was nothing and is probabilities"),
    ({"roi": "DRAWN"}, "the content of --roi, --exclude and --tissue-mask was not given and is"),
    ({"roi": "DRAWN", "roi_classes": ("Tumor",)}, "--tissue-mask was not given and is"),
    ({"exclude": "DRAWN"}, "--tissue-mask was not given and is"),
    ({"tissue_mask": "DRAWN"}, "--tissue-mask was not given and is"),
]
"""Options and what is said of them; DRAWN: a file with regions."""


def test_the_changes_below_are_of_every_option() -> None:
    assert {name for change, _ in CHANGES for name in change} == {one.name for one in fields(RunConfig)}


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_another_configuration_is_refused_by_name(
    made_run: MadeRun, finished: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    before = labels_of(finished)
    drawn = str(write_geojson(tmp_path / "drawn.geojson", feature([square(0, 0, 900, 900)], "Tumor")))
    change = {name: drawn if value == "DRAWN" else value for name, value in change.items()}
    with pytest.raises(ResultMismatchError, match=words) as caught:
        run_serially(made_run, finished.parent, RunConfig(**{"tile_px": 512, **change}))
    assert "--restart" in str(caught.value)
    assert (labels_of(finished) == before).all()


@pytest.mark.slow
def test_restart_begins_again_and_overwrite_replaces_anything(made_run: MadeRun, tmp_path: Path) -> None:
    folder = run_serially(made_run, tmp_path).folder
    assert not run_serially(made_run, tmp_path, RunConfig(refine=0.5), existing="restart").done_before
    stranger = tmp_path / "other" / made_run.slide.stem
    stranger.mkdir(parents=True)
    (stranger / "thesis.txt").write_text("years of work")
    for existing in ("resume", "restart"):
        with pytest.raises(ResultMismatchError, match=r"thesis\.txt"):
            run_serially(made_run, tmp_path / "other", existing=existing)
    assert (stranger / "thesis.txt").exists()
    run_serially(made_run, tmp_path / "other", existing="overwrite")
    assert not (stranger / "thesis.txt").exists()
    assert folder.exists()


def test_two_runs_in_one_folder(made_run: MadeRun, tmp_path: Path) -> None:
    folder = tmp_path / made_run.slide.stem
    with ResultFolder(folder).locked(), pytest.raises(ResultBusyError, match="another run"):
        run_serially(made_run, tmp_path)


@pytest.mark.slow
def test_batches_on_cpu_are_exact_at_any_tile_size(made_run: MadeRun, tmp_path: Path) -> None:
    masks = [
        labels_of(run_serially(made_run, tmp_path / str(t), RunConfig(tile_px=t, batch_size=3)).folder, 0)
        for t in (512, 2048)
    ]
    assert (masks[0] == masks[1]).all()


@pytest.mark.slow
def test_a_run_goes_on_in_the_arithmetic_it_began_with(
    made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arithmetic() -> str:
        return str(json.loads((tmp_path / made_run.slide.stem / "run.json").read_text())["precision"])

    def stop(event: Event) -> None:
        if isinstance(event, TileFinished):
            raise KeyboardInterrupt

    monkeypatch.setattr("wsi_magnet.inference.optimize.computes_bf16", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        run_serially(made_run, tmp_path, RunConfig(tile_px=512), observe=stop)
    assert arithmetic() == "mixed"
    monkeypatch.setattr("wsi_magnet.inference.optimize.computes_bf16", lambda: False)
    run_serially(made_run, tmp_path, RunConfig(tile_px=512))
    assert arithmetic() == "mixed"
    run_serially(made_run, tmp_path, RunConfig(tile_px=512), existing="restart")
    assert arithmetic() == "fp32"


@pytest.mark.parametrize("told", [{}, {"precision": "fp99"}, {"precision": ["fp32"]}], ids=str)
def test_what_an_older_run_or_a_damaged_file_says_of_its_arithmetic(
    made_run: MadeRun, tmp_path: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, TileFinished):
            raise KeyboardInterrupt

    monkeypatch.setattr("wsi_magnet.inference.optimize.computes_bf16", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        run_serially(made_run, tmp_path, RunConfig(tile_px=512), observe=stop)
    path = tmp_path / made_run.slide.stem / "run.json"
    values = json.loads(path.read_text())
    del values["precision"]
    path.write_text(json.dumps({**values, **told}))
    if told:
        with pytest.raises(ResultMismatchError, match=r"run\.json is damaged: .*precision"):
            run_serially(made_run, tmp_path, RunConfig(tile_px=512))
    else:
        run_serially(made_run, tmp_path, RunConfig(tile_px=512))
        assert json.loads(path.read_text())["precision"] == "fp32"


def test_the_pixels_of_a_mirax_slide_are_not_where_its_result_goes(tmp_path: Path) -> None:
    for folder, refused in ((tmp_path / "case", True), (tmp_path / "other", False)):
        parts = _parts(tmp_path / "case.mrxs")
        if refused:
            with pytest.raises(ResultMismatchError, match="lies where its result would go"):
                ResultFolder(folder).refuse_inputs_inside(parts)
        else:
            ResultFolder(folder).refuse_inputs_inside(parts)
