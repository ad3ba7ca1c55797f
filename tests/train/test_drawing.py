"""Loaders: processes that draw batches give what threads give, in order, and end with the training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.train.made import (
    Stopped,
    ToyStage,
    quick_training,
    setting_of,
    stopping_at,
    tiny_config,
    toy_config,
    write_data,
)
from wsi_magnet.errors import ManifestError, TrainingError
from wsi_magnet.train.config import MethodConfig
from wsi_magnet.train.drawing import prefetched_batches
from wsi_magnet.train.loop import Loop
from wsi_magnet.train.pipeline import train_bundle
from wsi_magnet.train.spec import TrainingSpec

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Numbers:
    """A step's items, with the process that drew them; a step may fail, or end its process."""

    failing: int = -1
    ending: int = -1

    def __call__(self, step: int, mine: range) -> tuple[int, list[tuple[int, int]]]:
        """Later steps are drawn sooner than earlier ones."""
        if step == self.failing:
            raise ManifestError(f"row {step} cannot be read")
        if step == self.ending:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02 if step % 2 else 0.0)
        return os.getpid(), [(step, item) for item in mine]


@pytest.mark.parametrize("loaders", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_batches_come_in_the_order_of_their_steps(loaders: int) -> None:
    found = list(prefetched_batches(Numbers(), range(3, 20), range(1, 6, 2), CPU, loaders))
    assert [one for _, one in found] == [[(step, item) for item in (1, 3, 5)] for step in range(3, 20)]
    processes = {process for process, _ in found}
    assert (processes == {os.getpid()}) == (loaders == 0)
    assert len(processes) <= max(1, loaders)


@pytest.mark.parametrize("loaders", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_comes_where_its_batch_would(loaders: int) -> None:
    batches = prefetched_batches(Numbers(failing=2), range(9), range(1), CPU, loaders)
    assert [next(batches)[1] for _ in range(2)] == [[(0, 0)], [(1, 0)]]
    with pytest.raises(ManifestError, match="row 2 cannot be read"):
        next(batches)


@pytest.mark.slow
def test_a_loader_that_was_killed_ends_the_training_with_a_reason() -> None:
    with pytest.raises(TrainingError, match="one of 2 loaders has ended, as when memory is full; give fewer --loaders"):
        list(prefetched_batches(Numbers(ending=3), range(99), range(1), CPU, 2))


@pytest.mark.slow
def test_a_generator_that_is_closed_ends_its_loaders() -> None:
    batches = prefetched_batches(Numbers(), range(1000), range(1), CPU, 2)
    process, _ = next(batches)
    batches.close()
    assert _has_ended(process)


KILLED = """
import os, signal, sys
from tests.train.test_drawing import CPU, Numbers
from wsi_magnet.train.drawing import prefetched_batches
if __name__ == "__main__":
    process, _ = next(prefetched_batches(Numbers(), range(1000), range(1), CPU, 1))
    print(process, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_loaders_end_with_a_training_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    root = Path(__file__).resolve().parents[2]
    found = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    made = subprocess.run(
        [sys.executable, tmp_path / "killed.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": found},
        check=False,
    )
    assert made.stdout, made.stderr
    process = int(made.stdout)
    assert made.returncode == -signal.SIGKILL
    for _ in range(100):
        if _has_ended(process):
            return
        time.sleep(0.1)
    os.kill(process, signal.SIGKILL)
    pytest.fail("the loader was still there after ten seconds")


def _has_ended(process: int) -> bool:
    """True for one that is gone, or only waits for its parent to take note."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


@pytest.mark.slow
def test_a_loader_leaves_signals_to_the_training() -> None:
    batches = prefetched_batches(Numbers(), range(40), range(1), CPU, 1)
    process, _ = next(batches)
    os.kill(process, signal.SIGINT)
    os.kill(process, signal.SIGTERM)
    assert [one for _, one in batches] == [[(step, 0)] for step in range(1, 40)]


@pytest.mark.slow
def test_a_stage_that_loaders_draw_for_ends_in_the_same_weights(tmp_path: Path) -> None:
    found = []
    for loaders in (0, 2):
        stage = ToyStage(toy_config())
        setting = setting_of(tmp_path, checkpoint=tmp_path / f"{loaders}.ckpt", loaders=loaders)
        Loop(stage, setting).run()
        assert bool(stage.drawn) == (loaders == 0)
        found.append(stage.learned.state_dict())
    assert all(torch.equal(tensor, found[1][key]) for key, tensor in found[0].items())


@pytest.fixture
def _quick() -> Iterator[None]:
    """Quick trainings."""
    with quick_training():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_bundles_are_the_same_with_loaders_however_often_stopped_and_whatever_is_cached(tmp_path: Path) -> None:
    manifest = write_data(tmp_path)
    methods = {"PointRend": MethodConfig(steps=2, window_px=64, batch=2)}
    config = tiny_config(mpps=(2.0, 1.0), methods=methods)

    def spec(name: str, loaders: int, cache_bytes: int = 10**9) -> TrainingSpec:
        (tmp_path / name).mkdir()
        output = tmp_path / name / "new.safetensors"
        return TrainingSpec(manifest, config, output, device="cpu", loaders=loaders, cache_bytes=cache_bytes)

    alone, loaded, stopped = spec("alone", 0), spec("loaded", 2, 1), spec("stopped", 1)
    train_bundle(alone)
    train_bundle(loaded)
    for stage, step in (("backbone", 3), ("refiners", 1)):
        with pytest.raises(Stopped):
            train_bundle(stopped, watch=stopping_at(stage, step))
    train_bundle(stopped)
    expected = alone.output.read_bytes()
    assert loaded.output.read_bytes() == expected
    assert stopped.output.read_bytes() == expected
