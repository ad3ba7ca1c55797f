"""Tables of areas agree with counting the mask, and are plain CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.export.results import CLASSES, Made, damage, make_result
from tests.runs import MadeRun, labels_of, local, run_serially
from wsi_magnet.config import Ngff
from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.export.tables import COLUMNS, write_csv
from wsi_magnet.labels import LabelClass
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import FileOptions

FILES = FileOptions()


def graded(folder: Path, made: Made | None = None) -> Result:
    """Of 1 mm² a half is stroma, the rest benign, Gleason 3 and 4; 0.01 mm² was not analysed."""
    mask = np.ones((1010, 1000), np.uint8)
    mask[500:600], mask[600:900], mask[900:1000], mask[1000:] = 2, 3, 4, 255
    return make_result(folder, mask, made)


def table(path: Path, *sources: Result) -> list[dict[str, str]]:
    write_csv(sources, path, FILES)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_class(tmp_path: Path) -> None:
    found = table(tmp_path / "x.csv", graded(tmp_path / "result"))
    columns = ("class", "value", "area_mm2", "percent_of_analysed", "percent_of_tumour")
    assert [tuple(row[c] for c in columns) for row in found] == [
        ("stroma", "1", "0.500000", "50.0000", ""),
        ("benign epithelium", "2", "0.100000", "10.0000", ""),
        ("Gleason 3", "3", "0.300000", "30.0000", "75.0000"),
        ("Gleason 4", "4", "0.100000", "10.0000", "25.0000"),
    ]


def test_every_row_has_the_slide_and_its_grade(tmp_path: Path) -> None:
    found = table(tmp_path / "x.csv", graded(tmp_path / "result"))
    columns = ("slide", "analysed_mm2", "tumour_mm2", "not_analysed_mm2", "gleason_score", "isup_grade_group")
    assert {tuple(row[c] for c in columns) for row in found} == {
        ("slide.svs", "1.000000", "0.400000", "0.010000", "7", "2")
    }


def test_without_gleason_patterns_their_columns_are_empty(tmp_path: Path) -> None:
    made = Made(classes=(LabelClass(1, "stroma", (1, 2, 3)),))
    (row,) = table(tmp_path / "x.csv", make_result(tmp_path / "result", np.ones((64, 64), np.uint8), made))
    assert [row[c] for c in ("tumour_mm2", "percent_of_tumour", "gleason_primary", "isup_grade_group")] == [""] * 4


def test_without_tumour_there_is_no_grade(tmp_path: Path) -> None:
    row = table(tmp_path / "x.csv", make_result(tmp_path / "result", np.ones((64, 64), np.uint8)))[2]
    assert [row[c] for c in ("tumour_mm2", "percent_of_tumour", "gleason_score")] == ["0.000000", "", ""]


def test_an_empty_mask_has_areas_of_nothing(tmp_path: Path) -> None:
    found = table(tmp_path / "x.csv", make_result(tmp_path / "result", np.zeros((64, 64), np.uint8)))
    assert {(row["area_mm2"], row["percent_of_analysed"]) for row in found} == {("0.000000", "0.0000")}


def test_several_results_stand_in_one_table_under_one_header(tmp_path: Path) -> None:
    found = table(tmp_path / "x.csv", graded(tmp_path / "a"), graded(tmp_path / "b"))
    assert len(found) == 2 * len(CLASSES)


def test_names_with_commas_quotes_and_foreign_letters_come_back(tmp_path: Path) -> None:
    name = 'drüse, "atrophisch"\n腺'
    made = Made(classes=(LabelClass(1, name, (1, 2, 3)),))
    (row,) = table(tmp_path / "x.csv", make_result(tmp_path / "result", np.ones((64, 64), np.uint8), made))
    assert row["class"] == name


def test_lines_end_as_rfc_4180_has_it(tmp_path: Path) -> None:
    table(tmp_path / "x.csv", graded(tmp_path / "result"))
    lines = (tmp_path / "x.csv").read_bytes().split(b"\r\n")
    assert (lines[0].decode().split(","), lines[-1], len(lines)) == (list(COLUMNS), b"", len(CLASSES) + 2)


def test_a_finished_run_is_taken_at_its_word_and_the_mask_agrees(made_run: MadeRun, tmp_path: Path) -> None:
    run_serially(made_run, tmp_path / "result")
    (folder,) = (p.parent for p in (tmp_path / "result").rglob("run.json"))
    source = Result(folder)
    labels = labels_of(folder)
    counted = {c["value"]: c["area_mm2"] / (source.geometry.mpp / 1000) ** 2 for c in source.summary["classes"]}
    assert counted == pytest.approx({c.value: int((labels == c.value).sum()) for c in source.classes})


def test_a_run_that_goes_on_is_counted_at_its_finest_complete_scale(tmp_path: Path) -> None:
    source = graded(tmp_path / "result", Made(state="running", first_level=1))
    assert write_csv([source], tmp_path / "x.csv", FILES).notes
    assert source.summary["analysed_mm2"] == pytest.approx(1)


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_counting_sees_every_pixel_that_was_written(tmp_path: Path, ngff: Ngff) -> None:
    mask = np.random.default_rng(0).integers(0, 5, (700, 1100), np.uint8)
    counts = make_result(tmp_path / "result", mask, Made(ngff=ngff)).count_labels()
    assert counts == {value: int((mask == value).sum()) for value in range(5)}


def test_an_existing_table_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    source, path = graded(tmp_path / "result"), tmp_path / "x.csv"
    path.write_text("mine")
    with pytest.raises(StoreError, match="--overwrite"):
        write_csv([source], path, FILES)
    assert path.read_text() == "mine"


def test_a_table_that_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    source = graded(tmp_path / "result", Made(state="running"))
    damage(local(source.folder), state="finished")
    local(source.mask_image.spec.path / "0" / "0" / "0").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="damaged"):
        write_csv([source], tmp_path / "x.csv", FILES)
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.csv"):
        write_csv([graded(tmp_path / "result")], tmp_path / "x.xlsx", FILES)


def test_a_slide_whose_name_is_no_text_has_marks_for_those_bytes(tmp_path: Path) -> None:
    record = graded(tmp_path / "result").record
    damage(tmp_path / "result", slide={**record.to_json()["slide"], "path": "slides/a\udce9.svs"})
    assert {row["slide"] for row in table(tmp_path / "x.csv", Result(tmp_path / "result"))} == {"a?.svs"}
