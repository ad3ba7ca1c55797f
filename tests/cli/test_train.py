"""`wsi-magnet train`: reports on stdout, progress and errors on stderr, exit codes, stopped and killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Call, one_line
from tests.test_cli_startup import HEAVY, modules_after
from tests.train.made import SMALL_VALIDATION_PX, quick_survey, tiny_config, write_config, write_data
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.train import pipeline as making
from wsi_magnet.train.spec import TrainingSpec

_WAIT_S = 120


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """The command takes over SIGTERM; tests give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Arguments of a tiny training."""
    config = write_config(tmp_path / "c.yaml", tiny_config())
    return [str(write_data(tmp_path)), "--config", str(config), "-o", str(tmp_path / "b.safetensors")]


def test_help_imports_nothing_heavy() -> None:
    assert modules_after("train", "--help").isdisjoint(HEAVY)


def test_a_check_says_what_there_is_and_makes_nothing(call: Call, data: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = call("train", *data, "--check")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == [
        "split",
        "images",
        "groups",
        "pixels",
        "background",
        "pixels",
        "gland",
    ]
    assert "Nothing stands in the way of training." in result.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_a_check_for_machines(call: Call, data: list[str]) -> None:
    found = json.loads(call("train", *data, "--check", "--json").stdout)
    assert found["groups"] == {"train": ["a", "b"], "validation": ["c"]}


def test_a_training_writes_a_bundle_and_says_what_it_is_worth(
    call: Call, data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "VALIDATION_PX", SMALL_VALIDATION_PX)
    monkeypatch.setattr(making, "survey_rows", quick_survey)
    result = call("train", *data, "--threads", "1", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert load_bundle(tmp_path / "b.safetensors").spec.name == "tiny"
    assert str(tmp_path / "b.safetensors") in result.stdout
    assert "backbone step 6 of 6: loss" in result.stderr
    assert "fitting thresholds at scale 3 of 3" in result.stderr
    assert (tmp_path / "b.training" / "curves.png").stat().st_size > 1000
    written = json.loads((tmp_path / "b.training" / "training.json").read_text())
    again = call("train", *data, "--threads", "1", "--device", "cpu", "--json")
    assert json.loads(again.stdout) == {**written, "done_before": True}
    assert "step" not in again.stderr
    assert "Finished before" in call("train", *data, "--device", "cpu").stdout
    (tmp_path / "b.safetensors").unlink()
    assert not json.loads(call("train", *data, "--threads", "1", "--device", "cpu", "--json").stdout)["done_before"]


def test_loaders_and_the_bound_of_decoded_images_reach_the_training(
    call: Call, data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[TrainingSpec] = []

    def check(spec: TrainingSpec, **options: object) -> dict[str, object]:
        found.append(spec)
        return {}

    monkeypatch.setattr("wsi_magnet.train.spec.check_spec", check)
    assert call("train", *data, "--check", "--json", "--loaders", "3", "--cache-gb", "1.5").exit_code == 0
    assert call("train", *data, "--check", "--json").exit_code == 0
    assert [(one.loaders, one.cache_bytes) for one in found] == [(3, 1_500_000_000), (0, 4_000_000_000)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'MANIFEST'"),
        (["m.csv"], "Missing option '--config'"),
        (["m.csv", "--config", "c.yaml"], "Missing option '-o'"),
        (["m.csv", "--config", "c.yaml", "-o", "b.safetensors", "--threads", "0"], "--threads"),
        (["m.csv", "--config", "c.yaml", "-o", "b.safetensors", "--loaders", "-1"], "--loaders"),
        (["m.csv", "--config", "c.yaml", "-o", "b.safetensors", "--cache-gb", "-1"], "--cache-gb"),
        (["m.csv", "--config", "c.yaml", "-o", "b.safetensors", "--cache-gb", "nan"], "--cache-gb"),
        (["m.csv", "--config", "c.yaml", "-o", "b.safetensors", "--epochs", "3"], "No such option"),
    ],
)
def test_what_cannot_be_meant_is_exit_2(call: Call, arguments: list[str], said: str) -> None:
    result = call("train", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_configuration_that_is_not_there_is_one_line(call: Call, data: list[str], tmp_path: Path) -> None:
    data[2] = str(tmp_path / "none.yaml")
    assert "none.yaml: cannot be read" in one_line(call("train", *data))


def test_a_row_that_cannot_be_used_is_one_line(call: Call, data: list[str], tmp_path: Path) -> None:
    (tmp_path / "mask_2.png").unlink()
    assert "row 4: annotation" in one_line(call("train", *data))


def test_a_device_that_is_none_is_one_line(call: Call, data: list[str]) -> None:
    assert "--device is 'gpu', not auto" in one_line(call("train", *data, "--device", "gpu"))


def test_a_backbone_that_is_not_there_is_one_line(call: Call, data: list[str], tmp_path: Path) -> None:
    assert "none.safetensors" in one_line(call("train", *data, "--backbone", tmp_path / "none.safetensors"))


# ---- stopped and killed ----------------------------------------------------------------------------------------------


def arguments_of(folder: Path) -> list[str]:
    """A training of a few seconds, with a checkpoint at every step."""
    stage = {"steps": 12, "validate_every": 1000, "checkpoint_every": 1}
    config = tiny_config(mpps=(2.0, 1.0), backbone=stage, refiners=stage, validation_views=1, halo_px=8)
    folder.mkdir()
    given = [str(write_data(folder)), "--config", str(write_config(folder / "c.yaml", config))]
    return ["train", *given, "-o", str(folder / "b.safetensors"), "--threads", "1", "--device", "cpu"]


def end_when_written(arguments: list[str], checkpoint: Path, number: int) -> tuple[int, str]:
    """Send a signal to a training when it next writes that checkpoint; its exit status and what it said."""

    def written() -> int:
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    before, deadline = written(), time.monotonic() + _WAIT_S
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_magnet", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while written() == before and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.002)
    process.send_signal(number)
    said = process.communicate(timeout=_WAIT_S)[1]
    return process.returncode, said


@pytest.mark.slow
def test_stopped_and_killed_in_each_stage_it_goes_on_to_the_same_bundle(call: Call, tmp_path: Path) -> None:
    through, ended = arguments_of(tmp_path / "through"), arguments_of(tmp_path / "ended")
    folder = tmp_path / "ended" / "b.training"
    code, said = end_when_written(ended, folder / "backbone.ckpt", signal.SIGTERM)
    assert code == 130
    assert said.splitlines()[-1] == "Stopped. What is finished is kept: the same command, without --restart, resumes."
    assert end_when_written(ended, folder / "backbone.ckpt", signal.SIGKILL)[0] == -signal.SIGKILL
    assert end_when_written(ended, folder / "refiners.ckpt", signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (tmp_path / "ended" / "b.safetensors").exists()
    for arguments in (through, ended):
        result = call(*arguments)
        assert result.exit_code == 0, result.output
    for name in ("b.safetensors", "b.training/curves.csv"):
        assert (tmp_path / "through" / name).read_bytes() == (tmp_path / "ended" / name).read_bytes()
