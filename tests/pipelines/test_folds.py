"""Cross-validation: groups dealt evenly, each image judged once by a bundle that has not seen its group."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import folds
from pipelines.dealing import deal, make_folds
from tests.commands import call_command
from tests.evaluate.made import MPP, label_values, paint, patchwork, stay_here, two_scales
from tests.runs import write_bundle
from tests.train.made import SMALL_VALIDATION_PX, quick_survey, tiny_config, write_config, write_data
from wsi_magnet.dataset.manifest import read_manifest
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import ConfigError
from wsi_magnet.evaluate.prediction import Prediction
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.train import pipeline as making

CONTENTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.lists(st.integers(0, 9), min_size=2, max_size=2)
)


@settings(max_examples=20)
@given(CONTENTS, st.integers(2, 4), st.integers(0, 3))
def test_each_group_is_tested_once_and_no_split_is_empty(
    contents: dict[str, list[float]], count: int, seed: int
) -> None:
    if len(contents) < {2: 4, 3: 3, 4: 4}[count]:
        with pytest.raises(ConfigError, match="too few"):
            make_folds(contents, count, 0.2, seed)
        return
    found = make_folds(contents, count, 0.2, seed)
    assert sorted(name for one in found for name in one.test) == sorted(contents)
    for one in found:
        assert one.test
        assert one.validation
        assert not set(one.test) & set(one.validation)
        assert len(one.test) + len(one.validation) < len(contents)
    assert found == make_folds(dict(reversed(contents.items())), count, 0.2, seed)


def difference(amounts: Sequence[Sequence[float]], part_of: Sequence[int], shares: Sequence[float]) -> float:
    whole = np.array(amounts, float) / np.sum(amounts, axis=0)
    own = [whole[[one == part for one in part_of]].sum(axis=0) for part in range(len(shares))]
    return float(sum(np.square(one - share).sum() for one, share in zip(own, shares, strict=True)))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1 / 3, 1 / 3, 1 / 3), (0.8, 0.2)])
def test_a_deal_is_as_even_as_the_best_of_all(shares: tuple[float, ...]) -> None:
    rng = np.random.default_rng(5)
    for _ in range(4):
        contents = {f"g{i}": rng.integers(1, 30, 3).tolist() for i in range(7)}
        amounts = list(contents.values())
        parts = deal(contents, shares)
        part_of = [next(k for k, part in enumerate(parts) if name in part) for name in contents]
        possible = [one for one in product(range(len(shares)), repeat=7) if len(set(one)) == len(shares)]
        best = min(difference(amounts, one, shares) for one in possible)
        assert difference(amounts, part_of, shares) <= best + 0.002


def test_classes_are_dealt_as_evenly_as_images() -> None:
    contents = {f"g{i}": [1.0, float(i % 2), float(1 - i % 2)] for i in range(8)}
    for part in deal(contents, [0.25] * 4):
        assert sorted(contents[name][1] for name in part) == [0, 1]


@pytest.mark.parametrize(("count", "share"), [(1, 0.2), (2, 0.0), (2, 1.0)])
def test_impossible_folds_are_refused(count: int, share: float) -> None:
    with pytest.raises(ConfigError):
        make_folds({name: [1.0] for name in "abcd"}, count, share)


def painted_study(folder: Path, count: int = 4) -> list[str]:
    """Arguments: painted images of a patient each, and settings of a training that a stand-in makes."""
    lines = ["image,annotation,mpp,group,split"]
    for i in range(count):
        image = paint(folder / f"image{i}.png", patchwork(i))
        label_values(folder / f"label{i}.png", patchwork(i))
        lines.append(f"{image.name},label{i}.png,{MPP},patient{i},test")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    classes = [{"name": name, "value": value} for value, name in enumerate(("red", "green", "blue"), 1)]
    values: dict[str, Any] = {"name": "made", "mpps": [1.0, MPP], "classes": classes, "backbone": {"network": "small"}}
    (folder / "c.yaml").write_text(json.dumps({**values, "refiners": {}}))
    arguments = [str(folder / "manifest.csv"), "--config", str(folder / "c.yaml"), "-o", str(folder / "out")]
    return [*arguments, "--folds", "2", "--no-tissue", "--methods", "downsample,magnet"]


def without_training(*arguments: object) -> None:
    """A stand-in for `wsi-magnet train` that writes a bundle of the fold's name; all else is done."""
    if arguments[0] == "train":
        output = Path(str(arguments[arguments.index("-o") + 1]))
        if not output.exists():
            write_bundle(output, two_scales(name=output.stem))
        return
    result = call_command(*arguments)
    assert result.exit_code == 0, result.output


def test_folds_are_joined_in_one_table_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stay_here(monkeypatch)
    monkeypatch.setattr(folds, "call", without_training)
    arguments, out = painted_study(tmp_path), tmp_path / "out"
    folds.main(arguments)
    first = json.loads((out / "evaluation.json").read_text())
    assert [row["name"] for row in first["rows"]] == ["Downsample", "MagNet"]
    assert [row["bundle"] for row in first["rows"]] == ["fold-1, fold-2"] * 2
    assert len(first["images"]) == first["bootstrap"]["groups"] == 4
    assert all(image["seconds"] == 0.5 for row in first["rows"] for image in row["images"])
    for number in (1, 2):
        manifest = read_manifest(out / f"fold-{number}.csv")
        assert {sample.split for sample in manifest.samples} == {"train", "validation", "test"}
        for sample in manifest.of("test"):
            result = Prediction(out / "results" / "MagNet" / sample.name)
            assert result.bundle == read_spec(out / f"fold-{number}.safetensors")[1]

    def not_again(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(folds, "segment_row", not_again)
    folds.main(arguments)
    assert json.loads((out / "evaluation.json").read_text()) == first
    write_bundle(out / "fold-2.safetensors", two_scales(name="another"))
    with pytest.raises(AssertionError):
        folds.main(arguments)


def test_another_deal_in_the_same_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "train", lambda *arguments: None)
    monkeypatch.setattr(folds, "judge", lambda *arguments: ())
    monkeypatch.setattr(folds, "call", lambda *arguments: None)
    arguments = painted_study(tmp_path)
    folds.main(arguments)
    with pytest.raises(ConfigError, match="choose another folder"):
        folds.main([*arguments, "--seed", "1"])


def cut(text: str) -> str:
    return text[: len(text) // 2]


def twice_tested(text: str) -> str:
    deal = json.loads(text)
    deal["groups"][1]["test"] = deal["groups"][0]["test"]
    return json.dumps(deal)


@pytest.mark.parametrize("damage", [cut, twice_tested, lambda text: "[]", lambda text: '{"of": {}}', lambda text: ""])
def test_damaged_folds_are_refused_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[str], str]
) -> None:
    monkeypatch.setattr(folds, "judge", lambda *arguments: ())
    monkeypatch.setattr(folds, "call", lambda *arguments: None)
    arguments, path = painted_study(tmp_path), tmp_path / "out" / "folds.json"
    folds.main(arguments)
    dealt = path.read_text()
    path.write_text(damage(dealt))
    with pytest.raises(ConfigError, match=r"folds\.json cannot be used: .*; remove it, and the command"):
        folds.main(arguments)
    path.unlink()
    folds.main(arguments)
    assert path.read_text() == dealt


@pytest.mark.parametrize(
    ("methods", "words"),
    [("magnet,gff", "unknown method 'gff'"), ("all", "DGF, ISS, .* does not train"), ("dgf", "--methods has DGF")],
)
def test_methods_that_no_bundle_will_have_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: str, words: str
) -> None:
    monkeypatch.setattr(folds, "call", lambda *arguments: pytest.fail("it trains"))
    with pytest.raises(ConfigError, match=words):
        folds.main([*painted_study(tmp_path), "--methods", methods])


def test_images_of_a_group_are_taken_evenly() -> None:
    samples = [Sample(i + 2, Path(f"{i}.png"), (), 1.0, "most" if i < 9 else "few", "test") for i in range(11)]
    assert [one.name for one in folds.evenly(samples, 3)] == ["1", "4", "7", "9", "10"]
    assert folds.evenly(samples, None) == tuple(samples)


def test_backbones_and_folds_of_another_study_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(folds, "judge", lambda *arguments: ())
    monkeypatch.setattr(folds, "call", lambda *arguments: calls.append(arguments))
    arguments, out = painted_study(tmp_path), tmp_path / "out"
    folds.main([*arguments, "--seed", "3"])
    assert not any("--backbone" in one for one in calls)
    calls.clear()
    again = [*arguments, "--seed", "3", "-o", str(tmp_path / "again"), "--backbones", str(out)]
    folds.main(again)
    assert [one[one.index("--backbone") + 1] for one in calls[:2]] == [out / f"fold-{i}.safetensors" for i in (1, 2)]
    assert (tmp_path / "again" / "folds.json").read_bytes() == (out / "folds.json").read_bytes()
    other = json.loads((out / "folds.json").read_text())
    other["of"]["seed"] = 4
    (out / "folds.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="other folds than"):
        folds.main(again)
    with pytest.raises(ConfigError, match="is not there; --backbones takes"):
        folds.main([*again, "--backbones", str(tmp_path)])


@pytest.mark.slow
def test_folds_of_real_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stay_here(monkeypatch)
    monkeypatch.setattr(making, "VALIDATION_PX", SMALL_VALIDATION_PX)
    monkeypatch.setattr(making, "survey_rows", quick_survey)
    monkeypatch.setattr(folds, "call", lambda *arguments: checked(call_command(*arguments)))
    manifest = write_data(tmp_path, [(group, "train") for group in "abcd"])
    config = write_config(tmp_path / "c.yaml", tiny_config())
    arguments = [str(manifest), "--config", str(config), "-o", str(tmp_path / "out"), "--folds", "2", "--threads", "1"]
    folds.main([*arguments, "--device", "cpu", "--no-tissue"])
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["Patching", "Downsample", "MagNet-Fast", "MagNet"]
    assert len(found["images"]) == 4


def checked(result: Any) -> None:
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_a_stop_stops_the_command_that_runs(tmp_path: Path) -> None:
    """A stand-in for Python writes a file when it is terminated."""
    (tmp_path / "python").write_text(
        f"#!{sys.executable}\n"
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n    pathlib.Path('stopped').touch()\n    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\npathlib.Path('started').touch()\ntime.sleep(60)\n"
    )
    (tmp_path / "python").chmod(0o700)
    code = (
        "import signal, sys\nfrom pipelines import folds\nsys.executable = './python'\n"
        "signal.signal(signal.SIGTERM, folds._stop)\nfolds.call('train')\n"
    )
    root = str(Path(folds.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}
    ) as process:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "stopped").exists()
