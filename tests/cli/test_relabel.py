"""`bundle edit` and `relabel`: what they print, and how they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.commands import Call, one_line
from tests.export.results import make_result
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.results.reader import Result


def test_a_bundle_is_edited_and_a_result_follows(call: Call, tmp_path: Path) -> None:
    edited = tmp_path / "edited.safetensors"
    given = ["--rename", "stroma=Stroma", "--color", "Stroma=#4a90d9", "--name", "mine", "--card", "by=me = you"]
    done = call("bundle", "edit", "default", "-o", edited, *given)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{edited}: mine, classes Stroma, gland\n"
    spec, _ = read_spec(edited)
    assert (spec.name, spec.classes[0].name, spec.classes[0].color) == ("mine", "Stroma", (74, 144, 217))
    assert spec.card["by"] == "me = you"
    assert "--overwrite" in one_line(call("bundle", "edit", "default", "-o", edited, *given))
    assert "Stroma" in call("bundle", "show", edited).stdout
    for overwriting in (
        ["profile", edited, "m.csv"],
        ["import-magnet", "--network", "psp", "--backbone", "b", "--refiner", "r"],
    ):
        assert "exists; choose another name" in one_line(call("bundle", *overwriting, "-o", edited))
        assert "exists" not in one_line(call("bundle", *overwriting, "-o", edited, "--overwrite"))


def test_results_of_a_folder_are_relabelled(call: Call, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_result(tmp_path / "out" / name, np.full((64, 64), 3, np.uint8))
    done = call("relabel", tmp_path / "out", "--rename", "stroma=Stroma", "--color", "Gleason 3=#010203")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 2
    for name in ("a", "b"):
        classes = {one.name: one.color for one in Result(tmp_path / "out" / name).classes}
        assert (classes["Gleason 3"], "Stroma" in classes, "stroma" in classes) == ((1, 2, 3), True, False)


def test_a_name_that_is_misspelt_is_refused_though_the_new_one_exists(call: Call, tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.full((64, 64), 3, np.uint8))
    told = one_line(call("relabel", tmp_path / "r", "--rename", "stromma=stroma"))
    assert "there is no class 'stromma'; the classes are " in told
    edited = tmp_path / "edited.safetensors"
    assert "no class 'Gland'" in one_line(call("bundle", "edit", "default", "-o", edited, "--rename", "Gland=gland"))
    assert not edited.exists()


def test_a_change_may_be_repeated_and_changes_may_follow_each_other(call: Call, tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.full((64, 64), 3, np.uint8))
    for change in ("stroma=one", "stroma=one", "one=two", "one=two", "stroma=two"):
        assert call("relabel", tmp_path / "r", "--rename", change).exit_code == 0, change
    assert Result(tmp_path / "r").record.renamed_classes == {"stroma": "two", "one": "two"}
    assert "no class 'stroma'" in one_line(call("relabel", tmp_path / "r", "--rename", "stroma=one"))
    assert "two" in {one.name for one in Result(tmp_path / "r").classes}


def test_a_folder_with_a_damaged_result_is_refused_before_any_is_changed(call: Call, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_result(tmp_path / "out" / name, np.full((64, 64), 3, np.uint8))
    shutil.rmtree(tmp_path / "out" / "b" / "mask.ome.zarr")
    before = (tmp_path / "out" / "a" / "run.json").read_bytes()
    assert "b/mask.ome.zarr" in one_line(call("relabel", tmp_path / "out", "--rename", "stroma=Stroma"))
    assert (tmp_path / "out" / "a" / "run.json").read_bytes() == before


def test_what_cannot_be_meant_is_refused(call: Call, tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.full((64, 64), 3, np.uint8))
    assert call("relabel", tmp_path / "r").exit_code == 2
    assert call("relabel", tmp_path / "r", "--rename", "stroma").exit_code == 2
    assert call("relabel", tmp_path / "r", "--color", "stroma=blue").exit_code == 2
    assert call("relabel", tmp_path / "r", "--rename", "a=b", "--bundle", "x").exit_code == 2
    assert "no class 'lumen'" in one_line(call("relabel", tmp_path / "r", "--rename", "lumen=Lumen"))
    assert "have the values" in one_line(call("relabel", tmp_path / "r", "--bundle", "default"))
    assert call("bundle", "edit", "default", "-o", tmp_path / "x.safetensors").exit_code == 2
    assert call("bundle", "edit", "default", "-o", tmp_path / "x.safetensors", "--card", "x").exit_code == 2
    controlled = call("bundle", "edit", "default", "-o", tmp_path / "x.safetensors", "--name", "a\nb")
    assert "--name 'a\\nb' has control characters" in one_line(controlled)
