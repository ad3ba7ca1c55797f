"""Results that exist are never lost: by no command that fails, and by no damaged folder."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from tests.commands import Call, one_line
from tests.few import slow_except
from tests.runs import MadeRun, free_spec, labels_of, run_serially, write_bundle
from tests.segment.test_slide import Stopped, stop_after


@pytest.fixture(scope="module")
def good(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished result, to be copied before it is touched."""
    return run_serially(made_run, tmp_path_factory.mktemp("good")).folder


@pytest.fixture
def result(good: Path, tmp_path: Path) -> Path:
    """A finished result that may be damaged."""
    return Path(shutil.copytree(good, tmp_path / good.name))


@pytest.fixture
def stopped(made_run: MadeRun, tmp_path: Path) -> Path:
    """A result that was stopped in the middle of its last scale."""
    with pytest.raises(Stopped):
        run_serially(made_run, tmp_path, observe=stop_after(9))
    return tmp_path / made_run.slide.stem


def run(call: Call, made: MadeRun, folder: Path, *options: object) -> Result:
    return call("run", made.slide, "-o", folder.parent, "--bundle", made.bundle, "--tile", "512", *options)


@pytest.mark.parametrize(
    ("option", "obstacle"),
    slow_except(
        [("--restart", "scheduler"), ("--overwrite", "device"), ("--restart", "bundle"), ("--overwrite", "network")],
        product(("--restart", "--overwrite"), ("scheduler", "device", "bundle", "network")),
    ),
)
def test_a_start_that_fails_keeps_the_result(
    call: Call, made_run: MadeRun, result: Path, monkeypatch: pytest.MonkeyPatch, option: str, obstacle: str
) -> None:
    monkeypatch.setattr("wsi_magnet.runtime.start._CONNECT_S", 1.0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = labels_of(result)
    arguments = ["run", made_run.slide, "-o", result.parent, "--bundle", made_run.bundle, option]
    if obstacle == "scheduler":
        arguments += ["--scheduler", "tcp://127.0.0.1:9"]
    elif obstacle == "device":
        arguments += ["--device", "cuda"]
    elif obstacle == "bundle":
        small = free_spec(network="small", refiner="magnet")
        whole = write_bundle(result.parent / "small.safetensors", small)
        whole.write_bytes(whole.read_bytes()[:-5000])
        arguments[5] = whole
    else:
        path = write_bundle(result.parent / "args.safetensors", free_spec(network_args={"gain": 2.0}))
        arguments[5] = path
        path.write_bytes(path.read_bytes().replace(b'\\"gain\\"', b'\\"pain\\"'))
    one_line(call(*arguments))
    assert (labels_of(result) == before).all()
    assert (result / "summary.json").exists()
    assert "Finished before" in run(call, made_run, result).stdout


def test_a_slide_in_its_own_result_folder_is_never_deleted(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    slide = tmp_path / "CMU" / "CMU.svs"
    slide.parent.mkdir()
    shutil.copy(made_run.slide, slide)
    for option in ([], ["--restart"], ["--overwrite"]):
        text = one_line(call("run", slide, "-o", tmp_path, "--bundle", made_run.bundle, *option))
        assert "choose another output folder" in text
        assert "--overwrite" not in text
    assert slide.read_bytes() == made_run.slide.read_bytes()


@pytest.mark.parametrize("lost", ["mask.ome.zarr", "mask.ome.zarr/0", "probabilities.ome.zarr/1"])
def test_a_stopped_result_that_lost_pixels_is_refused(call: Call, made_run: MadeRun, stopped: Path, lost: str) -> None:
    shutil.rmtree(stopped / lost)
    text = one_line(run(call, made_run, stopped))
    assert lost.split("/")[0] in text
    assert "--restart" in text


def test_a_finished_result_that_lost_its_mask_is_refused(call: Call, made_run: MadeRun, result: Path) -> None:
    (result / "summary.json").unlink()
    assert "Finished before" in run(call, made_run, result).stdout
    assert (result / "summary.json").exists(), "it is in run.json too"
    shutil.rmtree(result / "mask.ome.zarr" / "0")
    assert "of its mask.ome.zarr are gone" in one_line(run(call, made_run, result))


def test_a_level_that_was_being_made_is_made_again(call: Call, made_run: MadeRun, good: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run_serially(made_run, tmp_path, observe=stop_after(1))
    folder = tmp_path / good.name
    for level in ("0", "2"):
        (folder / "mask.ome.zarr" / level / ".zarray").unlink()
    (folder / "journal.jsonl").unlink()
    assert run(call, made_run, folder).exit_code == 0
    assert (labels_of(folder) == labels_of(good)).all()


@pytest.mark.parametrize(
    ("content", "words"),
    slow_except(
        [("{", "damaged"), ('{"format": "wsi-magnet-run", "version": 99}', "version 99 and this program writes 2")],
        [
            ("{", "damaged"),
            ("[]", "damaged"),
            ('{"format": "another"}', "damaged"),
            ('{"format": "wsi-magnet-run"}', "version None"),
            ('{"format": "wsi-magnet-run", "version": 99}', "version 99 and this program writes 2"),
            ('{"format": "wsi-magnet-run", "version": 1, "state": "bogus"}', "is damaged"),
            ('{"format": "wsi-magnet-run", "version": 1, "state": "finished", "fingerprint": 3}', "is damaged"),
        ],
    ),
)
def test_a_damaged_run_json_is_said_and_nothing_is_touched(
    call: Call, made_run: MadeRun, result: Path, content: str, words: str
) -> None:
    (result / "run.json").write_text(content)
    before = labels_of(result)
    for answer in (run(call, made_run, result), run(call, made_run, result, "--restart"), call("overlay", result)):
        assert words in one_line(answer)
    assert (labels_of(result) == before).all()
    assert run(call, made_run, result, "--overwrite").exit_code == 0


def test_nonsense_in_the_journal_costs_nothing(call: Call, made_run: MadeRun, good: Path, stopped: Path) -> None:
    nonsense: list[object] = [{"pass": None}, {"pass": [1]}, {"tile": 3}, {"tile": [0, 0, 0]}, [1], "x"]
    whole = {"tile": [2, 9, 9], "cells": "x", "labels": [1], "s": {}, "worker": ""}
    with (stopped / "journal.jsonl").open("ab") as journal:
        journal.write(b"\xff\xfe garbage\n")
        journal.writelines(json.dumps(line).encode() + b"\n" for line in [*nonsense, whole])
    assert run(call, made_run, stopped).exit_code == 0
    assert (labels_of(stopped) == labels_of(good)).all()


def test_an_overlay_is_drawn_on_its_own_slide_only(call: Call, result: Path, demo_slide: Path) -> None:
    values = json.loads((result / "run.json").read_text())
    values["slide"]["path"] = str(demo_slide)
    (result / "run.json").write_text(json.dumps(values))
    assert "no longer the slide" in one_line(call("overlay", result))
    assert np.any(labels_of(result))


def test_a_finished_result_in_a_folder_that_cannot_be_written(
    call: Call, made_run: MadeRun, result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: not mode & 2)
    assert "Finished before" in run(call, made_run, result).stdout
