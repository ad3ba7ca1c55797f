"""One folder and one script for all images of a project, and one script for their annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.export.groovy_scripts import run_script
from tests.export.qupath_rules import violations
from tests.export.results import Made, damage
from tests.export.test_qupath_script import image, result
from wsi_magnet.dataset.layouts.base import LayoutOptions
from wsi_magnet.dataset.layouts.folders import LAYOUT
from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.export.qupath_project import write_annotations_script, write_qupath_project
from wsi_magnet.export.write import ExportOptions, export
from wsi_magnet.storage.output import FileOptions


def project_of(tmp_path: Path, *slides: str, **other: Any) -> Path:
    """A folder for QuPath of results of these slides; returns the script."""
    folders = [result(tmp_path / "results" / f"r{i}", slide=slide, **other) for i, slide in enumerate(slides)]
    write_qupath_project(folders, tmp_path / "for-qupath", ExportOptions())
    return tmp_path / "for-qupath" / "import-results.groovy"


def opened(path: str, **other: Any) -> dict[str, Any]:
    return image(uris=[f"file:{path}"], name="as renamed", **other)


def test_a_folder_has_a_script_a_list_and_a_file_for_each_slide(tmp_path: Path) -> None:
    folders = [result(tmp_path / name, slide=f"s/{name}.svs", kept=name == "b") for name in "ab"]
    told: list[str] = []
    written = write_qupath_project(folders, tmp_path / "x", ExportOptions(), told.append)
    assert [path.relative_to(tmp_path / "x").as_posix() for path in written.files] == [
        *("import-results.groovy", "results.json"),
        *("objects/a.geojson", "objects/b.geojson", "objects/b.tiles.geojson"),
    ]
    assert [violations(path) for path in written.files[2:]] == [[], [], []]
    assert told == ["1 of 2: a", "2 of 2: b"]


def test_results_of_one_name_get_names_of_their_own(tmp_path: Path) -> None:
    folders = [result(tmp_path / place / "s") for place in ("a", "b")]
    write_qupath_project(folders, tmp_path / "x", ExportOptions())
    listed = json.loads((tmp_path / "x" / "results.json").read_text())
    assert [one["regions"] for one in listed] == [["s.geojson"], ["s~2.geojson"]]


def test_a_result_that_is_named_twice_is_written_once(tmp_path: Path) -> None:
    folder = result(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path)
    written = write_qupath_project([folder, folder, tmp_path / "link" / "a"], tmp_path / "x", ExportOptions())
    assert len(json.loads((tmp_path / "x" / "results.json").read_text())) == 1
    assert written.objects == len(json.loads(written.files[2].read_text())["features"])


@pytest.mark.parametrize(
    ("path", "listed"),
    [
        ("/data/back\\slash.svs", "/data/back\\slash.svs"),
        ("D:\\data\\a.svs", "D:/data/a.svs"),
        ("\\\\server\\share\\a.svs", "//server/share/a.svs"),
    ],
)
def test_backslashes_part_folders_on_windows_only(tmp_path: Path, path: str, listed: str) -> None:
    script = project_of(tmp_path, path)
    assert json.loads((script.parent / "results.json").read_text())[0]["slide"] == listed


def test_a_folder_below_a_file_is_refused_by_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()
    for target in (tmp_path / "file.txt", tmp_path / "file.txt" / "deeper" / "still"):
        with pytest.raises(StoreError, match=r"file\.txt is a file, not a folder; choose another place with -o"):
            write_qupath_project([result(tmp_path / "a")], target, ExportOptions())
        with pytest.raises(StoreError, match="is a file, not a folder"):
            export(tmp_path / "a", target / "x.geojson", "geojson")


def test_a_result_that_cannot_be_read_is_named_and_costs_no_other_its_place(tmp_path: Path) -> None:
    folders = [result(tmp_path / name) for name in "ab"]
    damage(folders[0], version=0)
    with pytest.raises(StoreError, match=r"1 of 2 slides are not in .*x: a \(.*version 0"):
        write_qupath_project(folders, tmp_path / "x", ExportOptions())
    listed = json.loads((tmp_path / "x" / "results.json").read_text())
    assert [one["regions"] for one in listed] == [["b.geojson"]]
    assert (tmp_path / "x" / "import-results.groovy").exists()


def test_slides_without_a_result_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    without = [f"s{i} (failed)" for i in range(8)]
    told = r"8 of 9 slides are not in .*x: s0 \(failed\); .*; s4 \(failed\); and 3 more; once they have results, export"
    with pytest.raises(StoreError, match=told):
        write_qupath_project([result(tmp_path / "a")], tmp_path / "x", ExportOptions(), without=without)
    assert (tmp_path / "x" / "objects" / "a.geojson").exists()


def test_a_folder_that_is_there_needs_overwrite(tmp_path: Path) -> None:
    folders = [result(tmp_path / "a")]
    write_qupath_project(folders, tmp_path / "x", ExportOptions())
    with pytest.raises(StoreError, match="--overwrite"):
        write_qupath_project(folders, tmp_path / "x", ExportOptions())
    write_qupath_project(folders, tmp_path / "x", ExportOptions(files=FileOptions(overwrite=True)))


def test_no_results_make_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results"):
        write_qupath_project([], tmp_path / "x", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_result_folder_is_no_place_for_it(tmp_path: Path) -> None:
    folder = result(tmp_path / "a")
    with pytest.raises(ConfigError, match="belongs to the run"):
        write_qupath_project([folder], folder / "x", ExportOptions())


def test_each_image_gets_the_result_of_its_file(tmp_path: Path) -> None:
    script = project_of(tmp_path, "a/one.svs", "a/Pr\u00e4parat 2.svs")
    outcome = run_script(script, opened("/elsewhere/Pra%CC%88parat%202.SVS"))
    assert (outcome.failure, len(outcome.objects)) == (None, 2)
    assert run_script(script, opened("/elsewhere/three.svs")).printed == ["as renamed: no result"]


def test_of_two_slides_of_one_name_the_folder_decides(tmp_path: Path) -> None:
    script = project_of(tmp_path, "/data/A/one.svs", "/data/B/one.svs")
    outcome = run_script(script, opened("/mnt/B/one.svs"))
    listed = json.loads(script.with_name("results.json").read_text())
    assert {identity[:13] for identity, _ in outcome.objects} == set(listed[1]["regions_ids"])
    unclear = run_script(script, opened("/mnt/C/one.svs"))
    assert "may be any of" in (unclear.failure or "")


def test_an_image_of_that_name_and_another_size_is_refused(tmp_path: Path) -> None:
    outcome = run_script(project_of(tmp_path, "a/one.svs"), opened("/b/one.svs", width=12))
    assert "has 12 x 128 pixels" in (outcome.failure or "")


def test_a_folder_that_was_moved_is_found_in_the_project(tmp_path: Path) -> None:
    script = project_of(tmp_path, "a/one.svs")
    (tmp_path / "project").mkdir()
    moved = script.parent.rename(tmp_path / "project" / "for-qupath") / script.name
    project = {"base": str(tmp_path / "project"), "classes": [], "images": []}
    assert len(run_script(moved, {**opened("/b/one.svs"), "project": project}).objects) == 2
    assert "correct" in (run_script(moved, opened("/b/one.svs")).failure or "")


def entry(number: int, path: Path, *annotations: Any, **other: Any) -> dict[str, Any]:
    return {"id": f"{number}", "name": path.name, "uris": [path.as_uri()], "annotations": list(annotations), **other}


def annotations_of(tmp_path: Path, images: list[dict[str, Any]], **other: Any) -> Any:
    script = tmp_path / "annotations.groovy"
    write_annotations_script(script, overwrite=True)
    project = {"base": str(tmp_path / "project"), "classes": [], "images": images}
    return run_script(script, {"project": project, **other})


def test_annotations_of_all_images_are_written_as_manifest_takes_them(tmp_path: Path) -> None:
    slides = [tmp_path / "slides" / name for name in ("P1/a.svs", "P1/b.ome.tif", "P2/a.svs", "P2/c.svs")]
    for path in slides:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    images = [entry(i, path, *([{"n": i}] if i < 3 else [])) for i, path in enumerate(slides)]
    outcome = annotations_of(tmp_path, images, open="1", unsaved=[{"n": 1}, {"n": "unsaved"}])
    target = tmp_path / "project" / "annotations"
    written = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.geojson"))
    assert written == ["P1/a.geojson", "P1/b.geojson", "P2/a.geojson"]
    assert json.loads((target / "P1" / "b.geojson").read_text())["objects"] == [{"n": 1}, {"n": "unsaved"}]
    assert outcome.printed == [
        f"Annotations of 3 images written to {target}",
        "1 images without annotations left out, 0 warnings",
        f'Next: wsi-magnet manifest folders "{tmp_path}/slides" --images . --masks "{target}" -o manifest.csv',
    ]
    found = LAYOUT.find(tmp_path / "slides", LayoutOptions(images=".", masks=str(target)))
    assert [(row.image.name, row.annotations[0].name) for row in found.rows] == [
        *(("a.svs", "a.geojson"), ("b.ome.tif", "b.geojson"), ("a.svs", "a.geojson")),
    ]


def test_images_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    stale = tmp_path / "project" / "annotations" / "old.geojson"
    stale.parent.mkdir(parents=True)
    stale.touch()
    names = {"same.svs": 1, "same.ndpi": 1, "broken.svs": 1, "old.svs": 0}
    images = [
        entry(i, tmp_path / name, *[{}] * n, broken=name == "broken.svs") for i, (name, n) in enumerate(names.items())
    ]
    outcome = annotations_of(tmp_path, images)
    assert [line.split(": ", 1)[1][:40] for line in outcome.printed if line.startswith("WARNING")] == [
        "same.ndpi was not written: another image",
        "broken.svs was not written: java.io.IOEx",
        "old.svs has no annotations now; delete /",
    ]
    assert "1 images without annotations left out, 3 warnings" in outcome.printed


def test_without_a_project_there_is_nothing_to_write(tmp_path: Path) -> None:
    write_annotations_script(tmp_path / "a.groovy", overwrite=False)
    assert run_script(tmp_path / "a.groovy", {}).failure == "Open the project first"
    with pytest.raises(StoreError, match="--overwrite"):
        write_annotations_script(tmp_path / "a.groovy", overwrite=False)


def test_a_run_of_another_size_of_mask_has_the_same_frame(tmp_path: Path) -> None:
    """A slide with bounds is listed in the size that QuPath's reader crops to."""
    project_of(tmp_path, "a/one.mrxs", made=Made(bounds_xy=(100, 50), beyond=30))
    (listed,) = json.loads((tmp_path / "for-qupath" / "results.json").read_text())
    assert (listed["width"], listed["height"]) == (128, 128)
