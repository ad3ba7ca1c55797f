"""`manifest`: what it writes and prints, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import Call, one_line
from tests.dataset import made_layouts as made
from wsi_magnet.dataset.layouts.registry import LAYOUTS
from wsi_magnet.dataset.manifest import read_manifest

TILES = [f"P1_D5_{i}_1_{j}" for i in range(10) for j in (1, 2)]


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    made.rings(tmp_path / "rings", TILES)
    return tmp_path / "rings"


def test_counts_for_people(call: Call, tiles: Path, tmp_path: Path) -> None:
    text = call("manifest", "rings-glands", tiles, "-o", tmp_path / "m.csv").stdout
    assert [line.split() for line in text.splitlines()[2:7]] == [
        ["split", "rows", "groups"],
        ["train", "14", "7"],
        ["validation", "4", "2"],
        ["test", "2", "1"],
        ["all", "20", "10"],
    ]
    assert "Note: 0.93 µm/px is not verified" in text


def test_counts_for_machines(call: Call, tiles: Path, tmp_path: Path) -> None:
    values = json.loads(call("manifest", "rings-glands", tiles, "-o", tmp_path / "m.csv", "--json").stdout)
    assert (values["rows"], values["groups"], values["annotations"]) == (20, 10, 20)
    assert values["splits"]["train"] == {"rows": 14, "groups": 7}
    assert values["manifest"] == str(tmp_path / "m.csv")


def test_options_reach_the_rows(call: Call, tiles: Path, tmp_path: Path) -> None:
    options = ["--mpp", 0.65, "--labels", "1=2; 0=ignore", "--fractions", "0.5,0.5,0", "--split-seed", 4]
    assert call("manifest", "rings-glands", tiles, "-o", tmp_path / "m.csv", *options).exit_code == 0
    manifest = read_manifest(tmp_path / "m.csv")
    assert {(sample.mpp, sample.labels) for sample in manifest.samples} == {(0.65, "1=2; 0=ignore")}
    assert [len(manifest.of(split)) for split in ("train", "validation", "test")] == [10, 10, 0]


def test_folders_and_patients(call: Call, tiles: Path, tmp_path: Path) -> None:
    options = ["--images", "img", "--masks", "mask", "--group-pattern", r"^(P1_D5_\d)_"]
    assert call("manifest", "folders", tiles, "-o", tmp_path / "m.csv", *options).exit_code == 0
    assert len({sample.group for sample in read_manifest(tmp_path / "m.csv").samples}) == 10
    text = call("manifest", "folders", tiles, "-o", tmp_path / "n.csv", *options).stdout
    assert "10 groups in 20 images: P1_D5_0 (P1_D5_0_1_1.png), P1_D5_1 (P1_D5_1_1_1.png), " in text


def test_patients_from_a_list(call: Call, tiles: Path, tmp_path: Path) -> None:
    lines = ["Slide,Patient", *(f"{name}.png,case {i % 3}" for i, name in enumerate(TILES))]
    (tmp_path / "patients.csv").write_text("\n".join(lines) + "\n")
    given = ["manifest", "folders", tiles, "-o", tmp_path / "m.csv", "--images", "img", "--groups"]
    assert call(*given, tmp_path / "patients.csv").exit_code == 0
    groups = {sample.image.stem: sample.group for sample in read_manifest(tmp_path / "m.csv").samples}
    assert groups == {name: f"case {i % 3}" for i, name in enumerate(TILES)}
    (tmp_path / "short.csv").write_text("\n".join(lines[:-1]))
    given.insert(3, "--overwrite")
    assert f"has no row for {TILES[-1]}.png" in one_line(call(*given, tmp_path / "short.csv"))
    (tmp_path / "twice.csv").write_text("\n".join([*lines, f"{TILES[0]},case 2"]))
    assert "is in two groups" in one_line(call(*given, tmp_path / "twice.csv"))
    both = call(*given, tmp_path / "patients.csv", "--group-pattern", "^(P1)")
    assert "give one of them" in one_line(both)


def test_staple_says_how_far_it_is(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK")
    made.gleason2019(tmp_path)
    result = call("manifest", "gleason2019", tmp_path, "-o", tmp_path / "g.csv", "--consensus", "staple")
    assert "STAPLE: 5 of 5 images\n" in result.stderr
    assert "\r" not in result.stdout


def test_soft_labels_are_asked_for_in_the_manifest(call: Call, tmp_path: Path) -> None:
    made.gleason2019(tmp_path)
    call("manifest", "gleason2019", tmp_path, "-o", tmp_path / "g.csv", "--consensus", "soft")
    assert read_manifest(tmp_path / "g.csv").samples[0].consensus == "soft"


def test_a_manifest_is_replaced_only_on_request(call: Call, tiles: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("mine")
    refused = call("manifest", "rings-glands", tiles, "-o", tmp_path / "m.csv")
    assert (refused.exit_code, (tmp_path / "m.csv").read_text()) == (2, "mine")
    assert call("manifest", "rings-glands", tiles, "-o", tmp_path / "m.csv", "--overwrite").exit_code == 0


def test_manifests_are_merged(call: Call, tiles: Path, tmp_path: Path) -> None:
    made.sicapv2(tmp_path / "sicap")
    for name, folder, path in (("rings-glands", tiles, "rings.csv"), ("sicapv2", tmp_path / "sicap", "sicap.csv")):
        assert call("manifest", name, folder, "-o", tmp_path / path).exit_code == 0
    given = ["manifest", "merge", tmp_path / "rings.csv", tmp_path / "sicap.csv", "-o", tmp_path / "m.csv"]
    text = call(*given, "--test", "sicap").stdout
    assert [line.split() for line in text.splitlines()[5:7]] == [["test", "6", "3"], ["all", "26", "13"]]
    assert "Note: 2 test rows of the other sites are train rows now" in text
    assert call(*given).exit_code == 2, "it is there already"
    values = json.loads(call(*given, "--overwrite", "--json").stdout)
    assert (values["rows"], values["groups"]) == (26, 13)
    assert "unknown site 'x'" in one_line(call(*given, "--overwrite", "--test", "x"))
    assert "manifest merge [OPTIONS] A.csv B.csv" in call("manifest", "merge", "-h").stdout


def test_help_explains_each_data_set(call: Call) -> None:
    text = " ".join(call("manifest", "-h").stdout.split())
    assert all(name in text for name in LAYOUTS)
    assert "Maps1_T ... Maps6_T" in text


def test_what_cannot_be_meant_is_refused(call: Call, tiles: Path, tmp_path: Path) -> None:
    output = ["-o", tmp_path / "m.csv"]
    assert call("manifest", "rings-glands", tiles, *output, "--fractions", "0.7;0.3").exit_code == 2
    assert call("manifest", "nothing", tiles, *output).exit_code == 2
    assert "are not three shares" in one_line(call("manifest", "rings-glands", tiles, *output, "--fractions", "1,2"))
    assert "--consensus is for" in one_line(call("manifest", "rings-glands", tiles, *output, "--consensus", "soft"))
    assert "is not a folder" in one_line(call("manifest", "rings-glands", tmp_path / "none", *output))
    assert "holds no *_sat.jpg" in one_line(call("manifest", "deepglobe", tiles, *output))
