"""The drill's own checks: differences that it reports, and the page that is made from its record."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from drill import record
from drill.processes import Processes
from drill.record import Outcomes, Played
from drill.scene import DrillFailedError, Scene, tile_lines
from drill.stage import ROOT, Stage, masks
from tests.runs import MadeRun, run_serially

OUTCOMES = Outcomes(
    (Played("workers killed", 3, 1, 0, (2.0, 7.51), 40.0), Played("no network", 0, 0, 0, (), 1.0, skipped="not root")),
    seed=5,
    machine="a machine",
    seconds=61.0,
)


@pytest.fixture(scope="module")
def finished(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the result of a run that is over."""
    return run_serially(made_run, tmp_path_factory.mktemp("finished")).folder.parent


@pytest.fixture
def scene(made_run: MadeRun, finished: Path, tmp_path: Path) -> Scene:
    """A copy of it, held against itself."""
    shutil.copytree(finished, tmp_path / "out")
    stage = Stage(tmp_path, made_run.slide, made_run.bundle, masks(finished / made_run.slide.stem))
    return Scene(stage, Processes(tmp_path), random.Random(0), tmp_path, deadline=0.0)


def change_pixel(result: Path, value: int) -> None:
    mask = zarr.open_array(result / "mask.ome.zarr" / "0", mode="r+")
    assert isinstance(mask, zarr.Array)
    pixels = np.asarray(mask[...])
    y, x = np.argwhere(pixels != value)[0]
    mask[int(y), int(x)] = value


def test_an_undisturbed_result_is_equal(scene: Scene) -> None:
    scene.check()
    assert scene.lost == 0
    assert tile_lines(scene.result)


def test_a_pixel_that_differs_is_seen(scene: Scene) -> None:
    change_pixel(scene.result, 3)
    with pytest.raises(DrillFailedError, match="1 pixels of the mask differ"):
        scene.check()


@pytest.mark.parametrize(("lost", "trouble"), [(False, "1 pixels are missing"), (True, "missing for 0 reasons")])
def test_a_pixel_that_is_missing_needs_a_reason(scene: Scene, lost: bool, trouble: str) -> None:
    change_pixel(scene.result, 255)
    with pytest.raises(DrillFailedError, match=trouble):
        scene.check(lost=lost)


def test_what_does_not_end_is_a_failure(scene: Scene) -> None:
    with pytest.raises(DrillFailedError, match="nothing happens"):
        scene.until(lambda: False, "nothing happens")


def test_the_supervisor_starts_another_one_and_leaves_none(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        generations = processes.supervise(lambda: processes.start(command, "sleeper", dict(os.environ)))
        generations[0].kill()
        while len(generations) == 1:
            time.sleep(0.05)
        last = generations[-1]
        assert last.poll() is None
    assert last.poll() is not None


@pytest.mark.slow
def test_a_drill_changes_the_program_in_every_process_that_its_environment_reaches() -> None:
    inject = str(ROOT / "drill" / "inject")
    changes = {"PYTHONPATH": os.pathsep.join([inject, str(ROOT)]), "WSI_MAGNET_DRILL_POISON": "2,1,0"}
    program = (
        "from wsi_magnet.planning.plan import TileTask\n"
        "from wsi_magnet.worker.tasks import RunTile\n"
        "from types import SimpleNamespace\n"
        "RunTile.__call__(SimpleNamespace(), TileTask(2, 1, 0, ()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **changes}, cwd=ROOT, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()


def test_the_table_tells_the_longest_recovery_and_what_was_skipped() -> None:
    assert OUTCOMES.table().rows[0] == ["workers killed", "3", "1", "equal", "0", "7.5"]
    assert OUTCOMES.table().rows[1][3] == "skipped: not root"


def test_the_page_in_the_repository_is_what_its_record_makes() -> None:
    if not record.RECORD.exists():
        pytest.skip("nothing is recorded yet")
    values = json.loads(record.RECORD.read_text(encoding="utf-8"))
    assert record.PAGE.read_text(encoding="utf-8") == record.page(values)
