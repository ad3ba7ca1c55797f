"""`wsi-magnet evaluate`: tables on stdout, progress on stderr, files in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Call, one_line
from tests.evaluate.made import MPP, bundle_at, label_values, paint, patchwork, result_of, stay_here

HEAD = "image,annotation,mpp,group,split"


@pytest.fixture(autouse=True)
def at_work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_here(monkeypatch)


def manifest_of(folder: Path, count: int = 2, splits: Sequence[str] = ("test",)) -> Path:
    """Painted images, their classes as label images, each of a patient of its own."""
    lines = [HEAD]
    for i in range(count):
        image = paint(folder / f"image{i}.png", patchwork(i))
        label_values(folder / f"label{i}.png", patchwork(i))
        lines.append(f"{image.name},label{i}.png,{MPP},patient{i},{splits[i % len(splits)]}")
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_one_table_as_on_the_poster(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["evaluate", manifest_of(tmp_path), "--bundle", bundle_at(tmp_path), "--no-tissue", "-o", out]
    result = call(*arguments, "--resamples", 20)
    assert result.exit_code == 0, result.output
    heads = [line.split()[0] for line in result.stdout.splitlines()[1:5]]
    assert heads == ["Patching", "Downsample", "MagNet-Fast", "MagNet"]
    assert "100.00 [100.00, 100.00]" in result.stdout.splitlines()[1]
    assert "2 images of 2 groups" in result.stdout
    assert "MagNet image1.png" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.csv", "evaluation.json", "evaluation.png"]


@pytest.mark.slow
def test_many_rows_have_a_picture_of_accuracy_against_time_and_the_posters_own_figures(
    call: Call, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["evaluate", manifest_of(tmp_path), "--bundle", bundle_at(tmp_path), "--no-tissue", "-o", out]
    result = call(*arguments, "--methods", "patching,downsample,densecrf,gf,magnet-fast,magnet", "--resamples", 20)
    assert result.exit_code == 0, result.output
    assert (out / "methods.png").read_bytes().startswith(b"\x89PNG")
    assert "62.95 / 1575 / 26.02" in result.stdout
    against_halves = result.stdout.split("\n\n")[1].splitlines()[1:]
    assert {line.split()[0] for line in against_halves} == {"DenseCRF", "GF", "MagNet-Fast", "MagNet"}


def test_machines_are_told_the_same_each_time(call: Call, tmp_path: Path) -> None:
    arguments = ["evaluate", manifest_of(tmp_path), "--bundle", bundle_at(tmp_path), "--methods", "downsample,magnet"]
    one, other = (json.loads(call(*arguments, "--json", "--resamples", 20).stdout) for _ in range(2))
    assert one == other
    assert [row["name"] for row in one["rows"]] == ["Downsample", "MagNet"]
    assert one["rows"][0]["measures"]["miou"]["difference"]["high"] <= 0
    assert one["classes"][0] == {"name": "red", "pixels": sum(int((patchwork(i) == 0).sum()) for i in range(2))}


def test_results_are_kept_where_that_is_asked_for_and_can_be_judged_again(call: Call, tmp_path: Path) -> None:
    manifest, out = manifest_of(tmp_path), tmp_path / "out"
    made = call(
        "evaluate",
        manifest,
        "--bundle",
        bundle_at(tmp_path),
        "--methods",
        "magnet",
        "-o",
        out,
        "--keep-results",
        "--json",
    )
    again = call("evaluate", manifest, "--result", out / "results" / "MagNet", "--json")
    assert again.exit_code == 0, again.output
    first, second = (json.loads(one.stdout)["rows"][0] for one in (made, again))
    assert second == first
    (out / "results" / "MagNet" / "row.json").unlink()
    third = json.loads(call("evaluate", manifest, "--result", out / "results" / "MagNet", "--json").stdout)["rows"][0]
    assert (third["name"], third["seconds_a_megapixel"], third["peak_memory_bytes"]) == ("MagNet", None, None)


@pytest.mark.slow
def test_the_refine_curve(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call(
        *["evaluate", manifest_of(tmp_path), "--bundle", bundle_at(tmp_path), "--no-tissue", "--refine-curve"],
        *["--fractions", "0,1", "-o", out, "--resamples", 20],
    )
    assert result.exit_code == 0, result.output
    assert [line.split()[:2] for line in result.stdout.splitlines()[2:4]] == [["0", "0.0"], ["1", "100.0"]]
    assert sorted(path.name for path in out.iterdir()) == ["curve.csv", "curve.json", "curve.png"]


def test_means_without_a_class(call: Call, tmp_path: Path) -> None:
    arguments = ["evaluate", manifest_of(tmp_path), "--bundle", bundle_at(tmp_path), "--methods", "downsample"]
    (row,) = json.loads(call(*arguments, "--no-tissue", "--mean-without", "red, Blue", "--json").stdout)["rows"]
    assert row["measures"]["miou"]["value"] == row["measures"]["iou: green"]["value"]
    assert "classes are blue, green, red" in one_line(call(*arguments, "--mean-without", "gren"))


def test_only_rows_of_the_split_are_judged(call: Call, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 3, ("train", "test", "train"))
    result = call("evaluate", manifest, "--bundle", bundle_at(tmp_path), "--methods", "downsample", "--json")
    assert [Path(one["image"]).name for one in json.loads(result.stdout)["images"]] == ["image1.png"]


def test_a_split_without_rows_is_refused(call: Call, tmp_path: Path) -> None:
    text = one_line(call("evaluate", manifest_of(tmp_path), "--split", "train", "--bundle", bundle_at(tmp_path)))
    assert "no rows of the split train" in text


def test_labels_that_no_class_of_the_bundle_meets_are_refused(call: Call, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    label_values(tmp_path / "label0.png", patchwork(0) + 40)
    assert "41" in one_line(call("evaluate", manifest, "--bundle", bundle_at(tmp_path)))


def test_one_class_only_is_refused(call: Call, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 1)
    label_values(tmp_path / "label0.png", np.zeros((150, 190), np.int64))
    assert "one class only, red" in one_line(call("evaluate", manifest, "--bundle", bundle_at(tmp_path)))


def test_all_pixels_ignored_is_refused(call: Call, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 1)
    label_values(tmp_path / "label0.png", np.full((150, 190), -1))
    assert "no pixel is labelled" in one_line(call("evaluate", manifest, "--bundle", bundle_at(tmp_path)))


def test_a_result_of_another_slide_is_refused(call: Call, tmp_path: Path) -> None:
    other = result_of(paint(tmp_path / "other.png", patchwork(9)), bundle_at(tmp_path), tmp_path / "results")
    text = one_line(call("evaluate", manifest_of(tmp_path), "--result", other))
    assert "is the result of other.png, which is not one of the 2 images" in text


def test_an_unknown_method_is_refused(call: Call, tmp_path: Path) -> None:
    assert "available are Patching" in one_line(call("evaluate", manifest_of(tmp_path), "--methods", "nobody"))


def test_a_bundle_of_one_scale_has_no_curve(call: Call, tmp_path: Path) -> None:
    one = {"mpps": (MPP,), "refiner_of": (), "select_above": (), "refine_above": (), "temperature": (1.0,)}
    bundle = bundle_at(tmp_path, **one)
    text = one_line(call("evaluate", manifest_of(tmp_path), "--bundle", bundle, "--refine-curve"))
    assert "there is nothing to refine" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep-results"], "pass -o FOLDER"),
        (["--result", "x", "--bundle", "y"], "--result scores existing results"),
        (["--fast", "1.5"], "between 0 and 1"),
        (["--refine-curve", "--fractions", "a"], "give numbers"),
    ],
)
def test_options_that_cannot_be_meant(call: Call, tmp_path: Path, arguments: list[str], words: str) -> None:
    result = call("evaluate", tmp_path / "m.csv", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_one_that_is_stopped_does_not_say_that_it_goes_on(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wsi_magnet.dataset.manifest.read_manifest", stopped)
    result = call("evaluate", tmp_path / "m.csv")
    assert (result.exit_code, result.stderr) == (130, "Stopped. The same command starts from the beginning.\n")


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_judged(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_magnet.cli.evaluate._compare", lambda samples, choices: pytest.fail("it was begun"))
    manifest = manifest_of(tmp_path)
    for folder in (manifest, manifest / "deeper"):
        told = one_line(call("evaluate", manifest, "-o", folder))
        assert f"{manifest} is a file, not a folder; choose another place with -o" in told
