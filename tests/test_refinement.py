"""The table of `--refine auto` against refining everything, on painted images with the methods in this thread."""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import record, refinement
from benchmarks.record import benchmark
from tests.evaluate.made import MPP, label_values, paint, stay_here, two_scales
from tests.runs import write_bundle
from wsi_magnet.errors import ConfigError
from wsi_magnet.results.folder import ResultFolder

COLUMNS = ("image", "annotation", "mpp", "group", "split", "labels")


def data_set(folder: Path, name: str, classes: list[np.ndarray]) -> Path:
    """A manifest of painted images, each of a group of its own."""
    rows = []
    for number, one in enumerate(classes):
        image = paint(folder / f"{name}{number}.png", one)
        labels = label_values(folder / f"{name}{number}-labels.png", one)
        rows.append((image, labels, MPP, number, "test", "1=red; 2=green; 3=blue"))
    path = folder / f"{name}.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def halves(seed: int) -> np.ndarray:
    """Two cells and a bit: one that the coarse scale is sure of, and one that only the fine scale can tell."""
    painted = np.kron(np.random.default_rng(seed).integers(0, 3, (33, 65)), np.ones((17, 17), np.int64))[:512, :1100]
    painted[:, :512] = 1
    return painted


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stay_here(monkeypatch)
    monkeypatch.setattr(record, "RECORDS", tmp_path / "performance")
    monkeypatch.setattr(record, "PAGE", tmp_path / "performance.md")
    return tmp_path


@pytest.mark.slow
def test_the_table_has_three_rows_a_data_set_and_the_same_command_resumes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        write_bundle(folder / f"{name}.safetensors", two_scales(refine_above=(above,)))
        for name, above in (("free", 0.03), ("free again", 0.04))
    )
    one = data_set(folder, "one", [halves(0)])
    two = data_set(folder, "two", [halves(2)])
    words = [
        f"{one}=First",
        str(two),
        "-o",
        str(folder / "out"),
        "--bundle",
        str(first),
        str(second),
        "--device",
        "cpu",
        "--no-tissue",
    ]
    monkeypatch.setattr("sys.argv", ["refinement", *words, "--record"])
    benchmark("refinement", "The default", refinement.measure, refinement.add_options)
    values = json.loads((folder / "performance" / "refinement.json").read_text())
    assert values["command"].startswith("python -m benchmarks.refinement one.csv=First two.csv -o out")
    rows = values["measurement"]["table"]["rows"]
    assert [row[:2] for row in rows] == [[name, how] for name in ("First", "two") for how in ("auto", "0.2", "all")]
    auto, _, everything = rows[:3]
    assert everything[3] == everything[5] == ""
    assert float(everything[6]) == 100 > float(auto[6]) > 0
    assert float(auto[2].split()[0]) <= float(everything[2].split()[0])
    assert float(auto[3].split()[0]) == pytest.approx(
        float(auto[2].split()[0]) - float(everything[2].split()[0]), abs=0.02
    )
    assert [aim["what"] for aim in values["measurement"]["aims"]] == [
        f"{name}: points of mIoU of auto below all" for name in ("First", "two")
    ]
    assert "## The default" in (folder / "performance.md").read_text()

    made = sorted((folder / "out").rglob("run.json"))
    assert len(made) == 6
    stopped = ResultFolder(made[0].parent)
    earlier = stopped.read_run()
    assert earlier is not None
    stopped.write_run(earlier.but(state="running", summary=None))
    before = {path: os.stat(path).st_mtime_ns for path in made}
    refinement.measure(parsed(words))
    assert [path for path in made if os.stat(path).st_mtime_ns != before[path]] == [made[0]]


def test_each_data_set_has_its_bundle_or_all_have_one(folder: Path) -> None:
    with pytest.raises(ConfigError, match="3 manifests and 2 bundles"):
        refinement.measure(parsed(["a.csv", "b.csv", "c.csv", "-o", str(folder), "--bundle", "x", "y"]))


@pytest.mark.parametrize(
    ("manifests", "text"),
    [
        (["t.csv=../../x"], "'../../x' is not the name of a folder"),
        (["t.csv=.."], "'..' is not"),
        (["t.csv=/x"], "'/x' is not"),
        (["t.csv=A", "t.csv=a"], "two data sets are named 'A'"),
        (["x/t.csv", "y/t.csv"], "two data sets are named 't'"),
    ],
)
def test_each_data_set_has_a_folder_of_its_own_in_the_output(folder: Path, manifests: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        refinement.measure(parsed([*manifests, "-o", str(folder / "out")]))
    assert not (folder / "out").exists()


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    refinement.add_options(parser)
    return parser.parse_args(words)
