"""Results with other names and colours: every file of them agrees, and no pixel changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.export.results import Made, make_result
from tests.runs import MadeRun, free_spec, labels_of, run_serially, write_bundle
from tests.slides_made import stained, write_pyramid
from wsi_magnet.config import Ngff, RunConfig
from wsi_magnet.errors import ResultBusyError, ResultMismatchError, StoreError
from wsi_magnet.geometry import Size
from wsi_magnet.nets.classes import ClassChanges
from wsi_magnet.nets.spec import ClassInfo, edit_bundle, read_spec
from wsi_magnet.results import relabel as module
from wsi_magnet.results.alarms import Alarm
from wsi_magnet.results.events import Note
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.grading import summarise
from wsi_magnet.results.reader import Result
from wsi_magnet.results.relabel import classes_with, relabel

CHANGES = ClassChanges({"red": "Rot & 'Glas'", "blue": "Gleason 3", "green": "Gleason 4"}, {"red": (1, 2, 3)})


def finished(folder: Path, ngff: Ngff = "0.4") -> tuple[MadeRun, Path]:
    spec = free_spec(
        mpps=(1.0, 0.5), refiner_of=(0,), select_above=(0.05,), refine_above=(0.4,), temperature=(1.0, 1.0),
        classes=(ClassInfo("red", 1, (220, 60, 60)), ClassInfo("green", 4, (0, 9, 0)), ClassInfo("blue", 3, (0, 0, 9))),
    )  # fmt: skip
    made = MadeRun(
        write_pyramid(folder / "a.tif", stained(Size(700, 560), 1), mpp=0.5),
        write_bundle(folder / "b.safetensors", spec),
    )
    config = RunConfig(tile_px=512, ngff=ngff, keep_probabilities=True, keep_uncertainty=True)
    return made, run_serially(made, folder / "out", config).folder


def metadata(result: Path, product: str) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(zarr.open_group(str(result / f"{product}.ome.zarr"), mode="r").attrs)
    return {**attributes, **attributes.get("ome", {})}


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_every_file_has_the_new_names(tmp_path: Path, ngff: Ngff) -> None:
    _, folder = finished(tmp_path, ngff)
    before, pixels = Result(folder), labels_of(folder)
    others = {name: metadata(folder, name)["multiscales"] for name in ("mask", "probabilities", "uncertainty")}
    relabel(folder, CHANGES.of(before.classes))
    after = Result(folder)
    assert [one.name for one in after.classes] == ["Rot & 'Glas'", "Gleason 4", "Gleason 3"]
    assert after.classes[0].color == (1, 2, 3)
    assert after.record.bundle.spec().classes[0] == ClassInfo("Rot & 'Glas'", 1, (1, 2, 3))
    assert [a.area_mm2 for a in after.areas.values()] == [a.area_mm2 for a in before.areas.values()]
    assert np.array_equal(labels_of(folder), pixels)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == after.record.summary
    assert [one["name"] for one in summary["classes"]] == [one.name for one in after.classes]
    assert summary["gleason"] is not None, "patterns are graded by their names"
    label = metadata(folder, "mask")["image-label"]
    assert {"label-value": 1, "name": "Rot & 'Glas'"} in label["properties"]
    assert {"label-value": 1, "rgba": [1, 2, 3, 255]} in label["colors"]
    assert [one["label"] for one in metadata(folder, "probabilities")["omero"]["channels"]][1] == "Gleason 4"
    for name, scales in others.items():
        assert metadata(folder, name)["multiscales"] == scales, name
        xml = (folder / f"{name}.ome.zarr" / "OME" / "METADATA.ome.xml").read_text()
        assert ("Gleason 4" in xml) == (name != "uncertainty")
        assert "slide_identity" in xml


def test_alarms_take_the_new_names(tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.full((64, 64), 1, np.uint8))
    result = ResultFolder(tmp_path / "r")
    record = result.read_run()
    assert record is not None
    about = [
        Alarm("one class", "99.9 % of 2 mm² is 'stroma': check", {"class": "stroma", "share": 0.999}),
        Alarm("class share", "70 % of the tissue is 'Gleason 3', and", {"class": "Gleason 3"}),
        Alarm("upsampled", "a 'stroma' that is no class", {"slide_mpp": 3.0}),
    ]
    areas = summarise({1: 4096}, record.bundle.classes, 1.0, 255)
    rest = {"scales": [], "tissue_share": 1.0, "cells_not_analysed": 0, "alarms": [one.to_json() for one in about]}
    result.write_run(record.but(summary={**areas, **rest}))
    names = ClassChanges({"stroma": "it's", "Gleason 4": "4"})
    relabel(tmp_path / "r", names.of(record.bundle.classes))
    found = Result(tmp_path / "r").alarms
    assert (found[0].text, found[0].values) == ('99.9 % of 2 mm² is "it\'s": check', {"class": "it's", "share": 0.999})
    assert found[1:] == tuple(about[1:])
    assert Alarm.all_of(json.loads((tmp_path / "r" / "summary.json").read_text())) == found


def test_one_that_was_killed_is_completed_by_the_same_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = finished(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    changed = CHANGES.of(Result(folder).classes)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_describe", killed)
        with pytest.raises(KeyboardInterrupt):
            relabel(folder, changed)
    assert metadata(folder, "mask")["image-label"]["properties"][1]["name"] == "red"
    relabel(folder, classes_with(CHANGES, folder))
    assert metadata(folder, "mask")["image-label"]["properties"][1]["name"] == "Rot & 'Glas'"
    assert Result(folder).classes[0].name == "Rot & 'Glas'"


def test_what_is_no_finished_result_is_refused(tmp_path: Path) -> None:
    result = make_result(tmp_path / "r", np.full((900, 700), 3, np.uint8), Made(state="running", first_level=1))
    with pytest.raises(ResultMismatchError, match="is not finished"):
        relabel(tmp_path / "r", result.classes)
    with pytest.raises(StoreError, match="no result folder"):
        relabel(tmp_path / "none", result.classes)
    assert not (tmp_path / "none").exists()


def test_other_values_and_a_busy_folder_are_refused(tmp_path: Path) -> None:
    _, folder = finished(tmp_path)
    classes = Result(folder).classes
    with pytest.raises(ResultMismatchError, match="have the values 1, 4, 3; keep these"):
        relabel(folder, [replace(classes[0], value=9), *classes[1:]])
    with ResultFolder(folder).locked(), pytest.raises(ResultBusyError):
        relabel(folder, classes)


def test_neither_an_edited_bundle_nor_a_relabelled_result_is_computed_again(tmp_path: Path) -> None:
    made, folder = finished(tmp_path)
    config = RunConfig(tile_px=512, keep_probabilities=True, keep_uncertainty=True)
    spec, _ = read_spec(made.bundle)
    edited = tmp_path / "edited.safetensors"
    classes = tuple(ClassInfo(c.name, c.value, c.color) for c in CHANGES.of([one.label for one in spec.classes]))
    edit_bundle(made.bundle, edited, replace(spec, name="new", classes=classes))
    told: list[str] = []

    def note(event: object) -> None:
        told.extend([event.text] if isinstance(event, Note) else [])

    assert run_serially(replace(made, bundle=edited), tmp_path / "out", config, observe=note).done_before
    assert ["relabel RESULT --bundle" in text for text in told] == [True]
    relabel(folder, [one.label for one in classes])
    told.clear()
    assert run_serially(replace(made, bundle=edited), tmp_path / "out", config, observe=note).done_before
    assert told == []
    assert run_serially(made, tmp_path / "out", config).done_before, "with the first bundle too"
    other = write_bundle(tmp_path / "other.safetensors", replace(spec, halo_px=64))
    with pytest.raises(ResultMismatchError, match="--bundle was"):
        run_serially(replace(made, bundle=other), tmp_path / "out", config)


def test_a_kept_image_more_or_less(tmp_path: Path) -> None:
    made, folder = finished(tmp_path)
    told: list[str] = []

    def note(event: object) -> None:
        told.extend([event.text] if isinstance(event, Note) else [])

    fewer = RunConfig(tile_px=512, keep_uncertainty=True)
    assert run_serially(made, tmp_path / "out", fewer, observe=note).done_before
    assert told == ["this result also holds probabilities, from an earlier --keep; it stays"]
    assert (folder / "probabilities.ome.zarr").is_dir()
    assert run_serially(made, tmp_path / "mask", RunConfig(tile_px=512)).folder.is_dir()
    with pytest.raises(ResultMismatchError, match="computes all of the slide: uncertainty cannot be made from what is"):
        run_serially(made, tmp_path / "mask", fewer)


def test_a_finished_result_whose_pixels_are_gone_is_not_taken_for_one(tmp_path: Path) -> None:
    made, folder = finished(tmp_path)
    config = RunConfig(tile_px=512, keep_probabilities=True, keep_uncertainty=True)
    next(path for path in (folder / "uncertainty.ome.zarr" / "1").rglob("0") if path.is_file()).unlink()
    with pytest.raises(ResultMismatchError, match=r"1 chunk of its uncertainty\.ome\.zarr are gone"):
        run_serially(made, tmp_path / "out", config)
