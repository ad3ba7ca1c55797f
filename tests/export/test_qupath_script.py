"""The script names the files that it reads and the image that it wants, whatever the names are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import numpy as np
import pytest

from tests.export.groovy_scripts import CLASSES, FUNCTIONS, run_script
from tests.export.qupath_rules import features_of, violations
from tests.export.results import Made, damage, make_result
from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.qupath_project import ANNOTATIONS, write_qupath_project
from wsi_magnet.export.qupath_script import groovy
from wsi_magnet.export.write import ExportOptions, export
from wsi_magnet.labels import LabelClass
from wsi_magnet.storage.output import FileOptions

ODD = "it's \\ a ${class}\u00e4\u816b\U0001f600\\u0041"
"""A name with everything that has a meaning in Groovy."""


def result(folder: Path, made: Made | None = None, *, kept: bool = False, slide: str = "slides/slide.svs") -> Path:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 8:40] = 3
    mask[50:60, 50:60] = 1
    probabilities = np.zeros((4, 64, 64), np.uint8)
    probabilities[2][mask > 0] = 255
    source = make_result(folder, mask, made, probabilities=probabilities if kept else None)
    damage(folder, slide={**source.record.to_json()["slide"], "path": slide})
    return folder


def script_of(folder: Path, target: Path, options: ExportOptions | None = None) -> str:
    export(folder, target, "qupath-script", options)
    return target.read_text(encoding="ascii")


def image(**other: Any) -> dict[str, Any]:
    """The slide of `result`, as QuPath has opened it."""
    opened = {"width": 128, "height": 128, "uris": ["file:/data/slide.svs"], "microns": 0.5, "name": "slide.svs"}
    return {"image": {**opened, **other}}


def test_the_script_and_its_files_lie_together(tmp_path: Path) -> None:
    written = export(result(tmp_path / "result", kept=True), tmp_path / "x.groovy", "qupath-script")
    assert [path.name for path in written.files] == ["x.groovy", "x.geojson", "x.tiles.geojson"]
    assert [violations(path) for path in written.files[1:]] == [[], []]


def test_the_script_names_its_files_and_its_image(tmp_path: Path) -> None:
    text = script_of(result(tmp_path / "result", Made(bounds_xy=(100, 50), beyond=30)), tmp_path / "x.groovy")
    assert "regions: ['x.geojson']," in text
    assert re.findall(r"(?:width|height): (\d+),", text) == ["128", "128"]


def test_in_the_frame_of_level_0_the_image_is_the_whole_slide(tmp_path: Path) -> None:
    options = ExportOptions(ObjectOptions(frame="level0"))
    made = Made(bounds_xy=(100, 50), beyond=30)
    text = script_of(result(tmp_path / "result", made), tmp_path / "x.groovy", options)
    assert re.findall(r"(?:width|height): (\d+),", text) == ["258", "208"]


def test_no_colour_of_a_project_is_changed(tmp_path: Path) -> None:
    assert "Color" not in script_of(result(tmp_path / "result"), tmp_path / "x.groovy")


@pytest.mark.parametrize("name", ["a'b", "a\\u0041", "tab\tand\nline", "$x ${y}", "\u00e4\u816b\U0001f600", "\udce9"])
def test_a_literal_is_ascii_and_cannot_be_left(name: str) -> None:
    assert re.fullmatch(r"'(?:[ -&(-\[\]-~]|\\[\\'nrt]|\\u[0-9a-f]{4})*'", groovy(name))


def test_quotes_and_backslashes_are_escaped() -> None:
    assert groovy("a'b\\c") == "'a\\'b\\\\c'"


def scripts(folder: Path) -> list[str]:
    """Every script, of a result and in a folder with names that mean something in Groovy."""
    made = Made(classes=(LabelClass(3, ODD, (1, 2, 3)), LabelClass(1, "stroma", (1, 2, 3))))
    inside = folder / "it's ${a} \u00e4"
    inside.mkdir()
    found = result(folder / "result", made, slide=f"slides/{ODD}.svs")
    write_qupath_project([found], inside, ExportOptions())
    return [script_of(found, inside / "x.groovy"), (inside / "import-results.groovy").read_text(), ANNOTATIONS]


def outside_strings(text: str) -> str:
    """A script without its comments and the contents of its strings."""
    return re.sub(r"//[^\n]*", "", re.sub(r"'(?:[^'\\\n]|\\.)*'", "''", text))


def test_brackets_and_quotes_are_closed(tmp_path: Path) -> None:
    for text in scripts(tmp_path):
        code = outside_strings(text)
        assert [code.count(a) for a in "([{"] == [code.count(a) for a in ")]}"]
        assert not re.search(r"[\"$\\]", code.replace('""', ""))
        assert code.count("'") % 2 == 0
        assert text.isascii()


def test_no_line_that_begins_with_an_operator_is_a_statement_of_its_own(tmp_path: Path) -> None:
    """Groovy ends a statement at the end of a line, but within brackets, and drops what stands on the next."""
    for text in scripts(tmp_path):
        depth = 0
        for line in outside_strings(text).splitlines():
            assert depth > 0 or not line.lstrip().startswith(("+", "-", "&", "|", "?", ":")), line
            depth += sum(line.count(a) for a in "([") - sum(line.count(a) for a in ")]")


def test_a_script_calls_what_every_version_of_qupath_has(tmp_path: Path) -> None:
    for text in scripts(tmp_path):
        code = outside_strings(text)
        called = set(re.findall(r"(?<![\w.])([A-Za-z]\w*)\(", code)) - {"if", "for", "while", "catch"}
        local = set(re.findall(r"def (\w+) = \{", code))
        constructed = set(re.findall(r"new (\w+)\(", code))
        assert called - local - constructed <= FUNCTIONS
        assert constructed <= {"File", "RuntimeException"}
        assert set(re.findall(r"qupath\.[a-z.]+\.\w+", code)) <= CLASSES


def test_it_imports_the_regions_of_the_open_image(tmp_path: Path) -> None:
    script_of(result(tmp_path / "result"), tmp_path / "x.groovy")
    outcome = run_script(tmp_path / "x.groovy", image())
    assert sorted(name for _, name in outcome.objects) == ["Gleason 3", "Stroma"]
    assert (outcome.pixel, outcome.failure) == (None, None)
    assert outcome.printed == ["slide.svs: 2 objects imported, 0 earlier ones removed"]


def test_run_again_it_replaces_what_any_export_of_the_result_brought(tmp_path: Path) -> None:
    """Exact and simplified outlines do not lie over each other; what others drew stays."""
    folder = result(tmp_path / "result")
    script_of(folder, tmp_path / "x.groovy", ExportOptions(ObjectOptions(simplify_um=2)))
    first = run_script(tmp_path / "x.groovy", image())
    script_of(folder, tmp_path / "y.groovy", ExportOptions(ObjectOptions(classes=("Gleason 3",))))
    mine = {"id": "11111111-2222-4333-8444-555555555555", "name": "Mine"}
    there = [mine, *({"id": identity, "name": name} for identity, name in first.objects)]
    again = run_script(tmp_path / "y.groovy", {**image(), "objects": there})
    assert [name for _, name in again.objects] == ["Mine", "Gleason 3"]
    assert again.printed == ["slide.svs: 1 objects imported, 2 earlier ones removed"]


def test_regions_of_version_0_1_0_are_replaced_and_others_with_such_ids_stay(tmp_path: Path) -> None:
    script_of(result(tmp_path / "result"), tmp_path / "x.groovy")
    there = [
        {"id": str(uuid5(NAMESPACE_URL, "a")), "name": "old", "locked": True},
        {"id": str(uuid5(NAMESPACE_URL, "b")), "name": "unlocked"},
        {"id": str(uuid4()), "name": "mine", "locked": True},
    ]
    outcome = run_script(tmp_path / "x.groovy", {**image(), "objects": there})
    assert sorted(name for _, name in outcome.objects) == ["Gleason 3", "Stroma", "mine", "unlocked"]
    assert outcome.printed == ["slide.svs: 2 objects imported, 1 earlier ones removed"]


def test_ids_are_told_from_those_of_version_0_1_0_by_their_version(tmp_path: Path) -> None:
    text = script_of(result(tmp_path / "result"), tmp_path / "x.groovy")
    assert "one.getID().version() == 5 && one.isLocked()" in text
    ids = [UUID(one["id"]) for one in features_of(tmp_path / "x.geojson")]
    assert {one.version for one in ids} == {8}


def test_a_class_of_the_project_is_used_as_the_project_writes_it(tmp_path: Path) -> None:
    script_of(result(tmp_path / "result"), tmp_path / "x.groovy")
    project = {"base": str(tmp_path), "classes": ["GLEASON 3", "stroma"], "images": []}
    outcome = run_script(tmp_path / "x.groovy", {**image(), "project": project})
    assert sorted(name for _, name in outcome.objects) == ["GLEASON 3", "stroma"]


@pytest.mark.parametrize("microns", [None, 1000])
def test_an_image_without_a_pixel_size_gets_that_of_the_run(tmp_path: Path, microns: float | None) -> None:
    script_of(result(tmp_path / "result"), tmp_path / "x.groovy")
    assert run_script(tmp_path / "x.groovy", image(microns=microns)).pixel == [0.5, 0.5]


def test_an_image_with_another_pixel_size_keeps_it_with_a_warning(tmp_path: Path) -> None:
    script_of(result(tmp_path / "result"), tmp_path / "x.groovy")
    outcome = run_script(tmp_path / "x.groovy", image(microns=0.25))
    assert (outcome.pixel, "0.25 microns here, and 0.5 in the run" in outcome.printed[0]) == (None, True)


def test_another_image_is_refused(tmp_path: Path) -> None:
    script_of(result(tmp_path / "result"), tmp_path / "x.groovy")
    outcome = run_script(tmp_path / "x.groovy", image(width=130))
    assert "has 130 x 128 pixels, and the regions belong to an image of 128 x 128" in (outcome.failure or "")
    assert outcome.objects == []


def test_odd_names_are_read_as_they_are(tmp_path: Path) -> None:
    scripts(tmp_path)
    (folder,) = [path.parent for path in tmp_path.rglob("x.groovy")]
    outcome = run_script(folder / "x.groovy", image())
    names = {f["properties"]["classification"]["name"] for f in features_of(folder / "x.geojson")}
    assert {name for _, name in outcome.objects} == names == {ODD, "Stroma"}


def test_a_file_in_the_way_is_seen_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "x.tiles.geojson").write_text("mine")
    with pytest.raises(StoreError, match=r"x\.tiles\.geojson exists"):
        export(result(tmp_path / "result", kept=True), tmp_path / "x.groovy", "qupath-script")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result", "x.tiles.geojson"]


def test_overwrite_replaces_all(tmp_path: Path) -> None:
    for _ in range(2):
        written = export(
            result(tmp_path / "result"),
            tmp_path / "x.groovy",
            "qupath-script",
            ExportOptions(files=FileOptions(0, True)),
        )
    assert len(written.files) == 2


def test_a_script_is_called_groovy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"end it in \.groovy"):
        export(result(tmp_path / "result"), tmp_path / "x.txt", "qupath-script")


def test_a_script_that_could_not_write_down_its_own_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not text"):
        export(result(tmp_path / "result"), tmp_path / "a\udce9.groovy", "qupath-script")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
