"""Several slides on one set of workers, and what neither a poisonous tile nor a late worker may spoil."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs import MadeRun, labels_of, local, run_serially
from tests.slides_made import write_stained_slide
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import ResultBusyError, SlideOpenError
from wsi_magnet.geometry import Size
from wsi_magnet.planning.plan import TileTask
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.runtime.dask_executor import DaskExecutor
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.runtime.start import start_executor
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.worker.tasks import RunTile

CONFIG = RunConfig(tile_px=512)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 2])
def test_slides_share_workers(made_run: MadeRun, tmp_path: Path, workers: int | None) -> None:
    slides = [made_run.slide]
    slides += [write_stained_slide(tmp_path / f"{n}.tif", Size(1500 + 700 * n, 1400), tissue_share=0.7) for n in (1, 2)]
    alone = [labels_of(run_serially(MadeRun(s, made_run.bundle), tmp_path / "alone").folder) for s in slides]
    executor = start_executor(Execution("cpu", workers=workers), threads=2)

    def run(numbered: tuple[int, Path]) -> np.ndarray[Any, Any]:
        rank, slide = numbered
        ranked = executor.with_priority(-rank)
        options: dict[str, Any] = {"bundle": made_run.bundle, "config": CONFIG, "execution": ranked}
        return labels_of(segment_slide(slide, tmp_path / "together", name=f"slide-{rank}", **options).folder)

    try:
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(run, enumerate(slides)))
    finally:
        executor.close()
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == ["slide-0", "slide-1", "slide-2"]


def test_the_device_that_is_asked_for_reaches_the_tiles(made_run: MadeRun, tmp_path: Path) -> None:
    executor = start_executor(Execution("cpu"), threads=1)
    devices: set[str] = set()

    class Watching(DaskExecutor):
        def map(self, function: Any, tasks: Any, **options: Any) -> Any:
            devices.update([function.run.device] if isinstance(function, RunTile) else [])
            return super().map(function, tasks, **options)

    executor.__class__ = Watching
    try:
        segment_slide(
            made_run.slide, tmp_path, bundle=made_run.bundle, config=CONFIG, execution=executor.with_priority(3)
        )
    finally:
        executor.close()
    assert devices == {"cpu"}


def test_a_slide_that_nobody_can_open_is_said_with_path_and_host(made_run: MadeRun, tmp_path: Path) -> None:
    with pytest.raises(SlideOpenError, match=r"worker on .*: .*gone\.svs: no such file"):
        segment_slide(tmp_path / "gone.svs", tmp_path, bundle=made_run.bundle, execution=SerialExecutor())


POISON = (1, 1, 1)


@dataclass(frozen=True)
class Poisoned:
    """A tile that kills the process that takes it."""

    inner: RunTile

    def __call__(self, task: TileTask) -> Any:
        """As a tile, or not at all."""
        if task.key == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(task)


class PoisonedExecutor(DaskExecutor):
    """Processes in which one tile is poison."""

    def map(self, function: Any, tasks: Any, **options: Any) -> Any:
        """As it says."""
        return super().map(Poisoned(function) if isinstance(function, RunTile) else function, tasks, **options)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_tile_that_kills_its_workers_is_recorded_and_the_rest_is_whole(made_run: MadeRun, tmp_path: Path) -> None:
    executor = start_executor(Execution("cpu", workers=1), threads=2)
    executor.__class__ = PoisonedExecutor
    config = RunConfig(tile_px=512, refine="all")
    try:
        told: list[object] = []
        summary = segment_slide(
            made_run.slide, tmp_path, bundle=made_run.bundle, config=config, execution=executor, observe=told.append
        )
    finally:
        executor.close()
    assert len(summary.failures) == 1
    assert "1 µm/px, row 1, column 1: no worker survived it" in summary.failures[0]
    assert json.loads(local(summary.folder / "run.json").read_text())["state"] == "finished with errors"
    mask = labels_of(summary.folder, level=1)
    undisturbed = labels_of(run_serially(made_run, tmp_path / "undisturbed").folder)
    found = labels_of(summary.folder)
    assert not (found == 255).any(), "the finest scale looked there again"
    assert (found == undisturbed).mean() > 0.99
    assert mask.shape[0] < found.shape[0]


def test_who_comes_late_writes_nothing(made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_magnet.worker.context._TOKEN_PAUSES_S", (0.0, 0.01))
    late: list[tuple[RunTile, TileTask]] = []

    class Remembering(SerialExecutor):
        def map(self, function: Any, tasks: Any, **options: Any) -> Any:
            for task in tasks:
                if isinstance(function, RunTile):
                    late.append((function, task))
                yield function(task)

    summary = segment_slide(made_run.slide, tmp_path, bundle=made_run.bundle, config=CONFIG, execution=Remembering())
    before = labels_of(summary.folder, level=2)
    function, task = late[0]
    with pytest.raises(ResultBusyError, match="continued without this worker"):
        function(task)
    assert (labels_of(summary.folder, level=2) == before).all()
    folder = ResultFolder(summary.folder)
    assert folder.fencing_token() is None
    folder.set_fencing_token(late[-1][0].fencing_token)
    with pytest.raises(ResultBusyError):
        function(task)
