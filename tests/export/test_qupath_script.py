"""The script names the files that it reads, the image that it wants, and the colours, whatever the names are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.export.qupath_rules import violations
from tests.export.results import Made, make_result
from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.qupath_script import groovy
from wsi_magnet.export.write import ExportOptions, export
from wsi_magnet.labels import LabelClass
from wsi_magnet.storage.output import FileOptions


def result(folder: Path, made: Made | None = None, *, kept: bool = False) -> Path:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 8:40] = 3
    probabilities = np.zeros((4, 64, 64), np.uint8)
    probabilities[2][mask > 0] = 255
    make_result(folder, mask, made, probabilities=probabilities if kept else None)
    return folder


def test_the_script_and_its_files_lie_together(tmp_path: Path) -> None:
    written = export(result(tmp_path / "result", kept=True), tmp_path / "x.groovy", "qupath-script")
    assert [path.name for path in written.files] == ["x.groovy", "x.geojson", "x.tiles.geojson"]
    assert [violations(path) for path in written.files[1:]] == [[], []]


def test_the_script_names_its_files_and_its_image(tmp_path: Path) -> None:
    made = Made(bounds_xy=(100, 50), beyond=30)
    export(result(tmp_path / "result", made), tmp_path / "x.groovy", "qupath-script")
    text = (tmp_path / "x.groovy").read_text()
    assert "def regions = ['x.geojson']" in text
    assert re.findall(r"expected\w+ = (\d+)", text) == ["128", "128"]


def test_in_the_frame_of_level_0_the_image_is_the_whole_slide(tmp_path: Path) -> None:
    made = Made(bounds_xy=(100, 50), beyond=30)
    options = ExportOptions(ObjectOptions(frame="level0"))
    export(result(tmp_path / "result", made), tmp_path / "x.groovy", "qupath-script", options)
    text = (tmp_path / "x.groovy").read_text()
    assert re.findall(r"expected\w+ = (\d+)", text) == ["258", "208"]


def test_colours_are_set_before_anything_is_read(tmp_path: Path) -> None:
    """A class keeps the colour that it has first in a session."""
    options = ExportOptions(ObjectOptions(classes=("Gleason 3",)), naming="derived")
    export(result(tmp_path / "result"), tmp_path / "x.groovy", "qupath-script", options)
    text = (tmp_path / "x.groovy").read_text()
    color = "getPathClass('Tumor: Gleason 3').setColor(getColorRGB(255, 220, 60))"
    assert text.index(color) < text.index("importObjectsFromFile")


def test_names_cannot_leave_their_quotes(tmp_path: Path) -> None:
    made = Made(classes=(LabelClass(3, "it's \\ a $class\n'); evil('", (1, 2, 3)),))
    export(result(tmp_path / "result", made), tmp_path / "x.groovy", "qupath-script")
    line = next(one for one in (tmp_path / "x.groovy").read_text().splitlines() if "evil" in one)
    assert re.fullmatch(r"getPathClass\('(?:[^'\\]|\\.)*'\)\.setColor\(getColorRGB\(1, 2, 3\)\)", line)


def test_quotes_and_backslashes_are_escaped() -> None:
    assert groovy("a'b\\c") == "'a\\'b\\\\c'"


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
