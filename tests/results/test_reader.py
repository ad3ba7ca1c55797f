"""Results for reading: whole ones open, damaged ones are refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.export.results import Made, damage, make_result
from tests.runs import labels_of
from wsi_magnet.config import Ngff
from wsi_magnet.errors import ConfigError, ResultMismatchError, StoreError
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.write import ExportOptions, export
from wsi_magnet.geometry import Box
from wsi_magnet.labels import LabelClass
from wsi_magnet.report.write import write_report
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.pyramid import Pyramid, count_chunks, read_attributes
from wsi_magnet.results.reader import Result, open_result
from wsi_magnet.storage.location import Location, Url, delete_object, replace_bytes, to_location

DAMAGES: list[tuple[str, dict[str, Any]]] = [
    ("slide", {"mpp_xy": [0, 0.5]}),
    ("slide", {"mpp_xy": [float("nan"), 0.5]}),
    ("slide", {"mpp_xy": [-0.5, 0.5]}),
    ("slide", {"mpp_xy": [0.5]}),
    ("slide", {"bounds_xywh": [None, 0, 10, 10]}),
    ("slide", {"bounds_xywh": [-1, 0, 10, 10]}),
    ("slide", {"size_wh": [1.5, 10]}),
    ("config", {"mpp": "0.5"}),
    ("bundle", {"name": None}),
    ("bundle", {"classes": []}),
    ("bundle", {"classes": [{"name": 5, "value": 1, "color": [1, 2, 3]}]}),
    ("bundle", {"classes": [{"name": "a", "value": -1, "color": [1, 2, 3]}]}),
    ("bundle", {"classes": [{"name": "a", "value": 256, "color": [1, 2, 3]}]}),
    ("bundle", {"classes": [{"name": "a", "value": 1, "color": [1, 2]}]}),
    ("bundle", {"classes": [{"name": "a", "value": 1, "color": [1, 2, 300]}]}),
    ("bundle", {"classes": [{"name": "a\udce9", "value": 1, "color": [1, 2, 3]}]}),
    ("bundle", {"card": "text"}),
    ("bundle", {"card": 5}),
    ("bundle", {"classes": [{"name": n, "value": 1, "color": [1, 2, 3]} for n in "ab"]}),
]


@pytest.mark.parametrize(("part", "changes"), DAMAGES)
def test_a_damaged_description_is_refused(tmp_path: Path, part: str, changes: dict[str, Any]) -> None:
    source = make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    damage(tmp_path / "result", **{part: {**source.record.to_json()[part], **changes}})
    with pytest.raises(ResultMismatchError, match=r"run\.json is damaged"):
        Result(tmp_path / "result")


def test_a_mask_that_has_lost_a_level_is_refused(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    source.mask_image.remove_level(0)
    with pytest.raises(StoreError, match="has lost its level 0"):
        Result(tmp_path / "result")


SIZES = [
    (
        "scales",
        [{"mpp": 1.0, "size_wh": [30, 20]}],
        r"array's shape is \(20, 30\), by its own metadata \(20, 20\)",
    ),
    ("scales", [{"mpp": 1.0, "size_wh": [10**9, 10**9]}], "by run.json the array's shape is"),
    ("slide", {"bounds_xywh": [0, 0, 10, 10]}, r"20 x 20 pixels at 1 µm/px does not cover .* 10 x 10 pixels at 0\.5 x"),
    ("slide", {"mpp_xy": [0.25, 0.5]}, "does not cover"),
]


@pytest.mark.parametrize(("part", "changes", "text"), SIZES)
def test_sizes_that_contradict_each_other_are_refused(tmp_path: Path, part: str, changes: Any, text: str) -> None:
    values = make_result(tmp_path / "result", np.ones((20, 20), np.uint8)).record.to_json()[part]
    damage(tmp_path / "result", **{part: {**values, **changes} if isinstance(changes, dict) else changes})
    with pytest.raises(ResultMismatchError, match=f"(?s){text}.*--restart"):
        Result(tmp_path / "result")


def test_an_array_whose_metadata_are_damaged_is_refused(tmp_path: Path) -> None:
    result = make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    assert isinstance(result.mask_image.spec.path, Path)
    (result.mask_image.spec.path / "0" / ".zarray").write_text("{}")
    with pytest.raises(ResultMismatchError, match="describe no array"):
        Result(tmp_path / "result")


def test_an_area_of_no_class_is_refused(tmp_path: Path) -> None:
    result = make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    summary = {**result.summary, "scales": [], "tissue_share": 1.0, "cells_not_analysed": 0}
    damage(tmp_path / "result", summary=summary)
    assert Result(tmp_path / "result").areas["stroma"].area_mm2 > 0
    summary["classes"][1]["value"] = -1
    damage(tmp_path / "result", summary=summary)
    with pytest.raises(ResultMismatchError, match="has the value -1, which no class of the bundle has"):
        Result(tmp_path / "result")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("place", ["file", "memory"])
def test_a_finished_result_that_lost_a_chunk_is_refused(tmp_path: Path, version: Ngff, place: str) -> None:
    """Its pixels would read as background."""
    result = make_result(tmp_path / "result", np.ones((600, 600), np.uint8), Made(ngff=version))
    chunks = [path for path in (tmp_path / "result" / "mask.ome.zarr").rglob("0") if path.is_file()]
    wanted = count_chunks(tmp_path / "result" / "mask.ome.zarr")
    assert wanted == 5
    ResultFolder(tmp_path / "result").write_run(result.record.but(chunks={"mask": wanted}))
    assert open_result(tmp_path / "result").finished
    folder: Location = tmp_path / "result"
    if place == "memory":
        folder = to_location(f"memory://{uuid4().hex}/result")
        for path in (one for one in (tmp_path / "result").rglob("*") if one.is_file()):
            replace_bytes(folder.joinpath(*path.relative_to(tmp_path / "result").parts), path.read_bytes())
        assert Result(folder).finished
        lost = folder.joinpath(*chunks[0].relative_to(tmp_path / "result").parts)
        assert isinstance(lost, Url)
        delete_object(lost)
    else:
        chunks[0].unlink()
    text = r"1 chunk of its mask\.ome\.zarr are gone \(4 of 5 are there\); .*--restart"
    with pytest.raises(ResultMismatchError, match=text):
        Result(folder)
    with pytest.raises(ResultMismatchError, match=text):
        export(folder, tmp_path / "x.geojson", "geojson")
    with pytest.raises(ResultMismatchError, match=text):
        write_report([folder], tmp_path / "x.html")


def test_an_older_result_whose_chunks_were_not_counted_is_read(tmp_path: Path) -> None:
    make_result(tmp_path / "result", np.ones((600, 600), np.uint8))
    (tmp_path / "result" / "mask.ome.zarr" / "0" / "0" / "0").unlink()
    assert Result(tmp_path / "result").count_labels()[0] == 512 * 512


def test_nothing_is_written_into_the_result_itself(tmp_path: Path) -> None:
    make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    with pytest.raises(ConfigError, match="lies in the result folder"):
        export(tmp_path / "result", tmp_path / "result" / "run.json", "geojson")


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    export(tmp_path / "result", tmp_path / "a" / "b" / "x.geojson", "geojson")
    assert (tmp_path / "a" / "b" / "x.geojson").exists()


def random_result(folder: Path) -> Result:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 5, (700, 1100), np.uint8)
    probabilities, uncertainty = (rng.integers(0, 256, (*lead, 700, 1100), np.uint8) for lead in ((4,), ()))
    made = Made(bounds_xy=(100, 60), beyond=30)
    make_result(folder, mask, made, probabilities=probabilities, uncertainty=uncertainty)
    return open_result(folder)


def test_levels_are_lazy_and_equal_what_zarr_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[Box] = []
    read = Pyramid.read

    def noted(self: Pyramid, level: int, box: Box) -> Any:
        boxes.append(box)
        return read(self, level, box)

    monkeypatch.setattr(Pyramid, "read", noted)
    result = random_result(tmp_path / "result")
    boxes.clear()
    assert [one.shape for one in result.labels] == [(700, 1100), (350, 550), (175, 275)]
    assert result.probabilities is not None
    assert result.probabilities[0].shape == (4, 700, 1100)
    assert not boxes
    assert (result.labels[0][:100, :90].compute() == labels_of(tmp_path / "result")[:100, :90]).all()
    assert boxes == [Box(0, 0, 512, 512)]
    for level, one in enumerate(result.labels):
        assert (np.asarray(one) == labels_of(tmp_path / "result", level)).all()
    found = np.asarray(result.probabilities[0])
    assert (found == labels_of(tmp_path / "result", 0, "probabilities")).all()


def test_a_region_counts_in_level_0_pixels_of_the_slide(tmp_path: Path) -> None:
    result, mask = random_result(tmp_path / "result"), labels_of(tmp_path / "result")
    same = result.region(100 + 2 * 50, 60 + 2 * 20, 2 * 30, 2 * 40)
    assert (same.labels == mask[20:60, 50:80]).all()
    assert same.uncertainty is not None
    assert (same.uncertainty == labels_of(tmp_path / "result", 0, "uncertainty")[20:60, 50:80]).all()
    finer = result.region(100, 60, 20, 20, mpp=0.5)
    assert (finer.labels == mask[:10, :10].repeat(2, 0).repeat(2, 1)).all()
    outside = result.region(0, 0, 100, 60, mpp=4)
    assert outside.labels.shape == (8, 12)
    assert not outside.labels.any()


def test_probabilities_of_a_coarser_region_are_means(tmp_path: Path) -> None:
    result = random_result(tmp_path / "result")
    coarse = result.region(100, 60, 2 * 30, 2 * 30, mpp=1.5)
    stored = labels_of(tmp_path / "result", 0, "probabilities")[:, :30, :30].astype(float)
    fine = stored.repeat(2, 1).repeat(2, 2).reshape(4, 20, 3, 20, 3).mean((2, 4))
    assert coarse.probabilities is not None
    assert np.abs(coarse.probabilities - fine).max() <= 0.5


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, float("nan"), 5), (0, 0, 1e9, 1e9)])
def test_an_impossible_region_is_refused(tmp_path: Path, box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match=r"above 0|too many"):
        random_result(tmp_path / "result").region(*box)


def test_impossible_sizes_and_levels_are_refused(tmp_path: Path) -> None:
    result = random_result(tmp_path / "result")
    for size in (0, -1, "x", None, True):
        with pytest.raises(ConfigError, match=f"longest_px is {size!r}, not a whole number of at least 1"):
            result.thumbnail(size)  # type: ignore[arg-type]
    for level in (99, -1, True, "x"):
        with pytest.raises(ConfigError, match=f"level is {level!r}, not between 0 and 2"):
            result.to_level0((0, 0), level)  # type: ignore[arg-type]


def test_a_data_set_of_another_level_is_refused(tmp_path: Path) -> None:
    """Before xarray is needed."""
    with pytest.raises(ConfigError, match="level is 99, not between 0 and 2"):
        random_result(tmp_path / "result").to_xarray(99)


def test_display_in_a_notebook(tmp_path: Path) -> None:
    result = random_result(tmp_path / "result")
    assert result.thumbnail(200).size == (200, 127)
    assert result._repr_png_().startswith(b"\x89PNG")
    assert "Gleason 3" in result._repr_html_()
    assert repr(result) == (
        "<Result of slide.svs: finished, 1100 x 700 pixels at 1 µm/px, stroma, benign epithelium, Gleason 3, Gleason 4>"
    )


def test_more_classes_than_the_tracing_can_number_are_refused(tmp_path: Path) -> None:
    classes = tuple(LabelClass(value, f"class {value}", (1, 2, 3)) for value in range(1, 200))
    make_result(tmp_path / "result", np.full((20, 20), 199, np.uint8), Made(classes=classes))
    with pytest.raises(ConfigError, match="has 200 classes to outline, and at most 127"):
        export(tmp_path / "result", tmp_path / "x.geojson", "geojson")
    options = ExportOptions(ObjectOptions(classes=("class 199",)))
    assert export(tmp_path / "result", tmp_path / "x.geojson", "geojson", options).objects == 1


def test_a_level_as_an_xarray_data_set_has_coordinates_in_microns(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 3, 4], np.uint8), (900, 700))
    made = make_result(tmp_path / "result", mask)
    for level in (0, 1):
        data = open_result(tmp_path / "result").to_xarray(level)
        spacing = made.mpps[level]
        x, y = data["x"].to_numpy(), data["y"].to_numpy()
        corner_um = made.geometry.bounds_xy[0] * made.slide.mpp_xy[0], made.geometry.bounds_xy[1] * made.slide.mpp_xy[1]
        np.testing.assert_allclose(np.diff(x), spacing)
        np.testing.assert_allclose((x[0], y[0]), [one + spacing / 2 for one in corner_um])
        assert data["x"].attrs["units"] == "µm"
        np.testing.assert_array_equal(data["labels"].to_numpy(), made.labels[level].compute())
        assert list(data["class"].to_numpy()) == [one.name for one in made.classes]
    np.testing.assert_array_equal(open_result(tmp_path / "result").to_xarray()["labels"].to_numpy(), mask)


@given(
    xy=st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=20),
    corner=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    version=st.sampled_from(["0.4", "0.5"]),
    mpps=st.sampled_from([(1.0, 0.5), (1.0, 0.2528), (2.0, 0.93)]),
)
def test_positions_are_those_of_the_coordinates_in_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    xy: list[tuple[float, float]],
    corner: tuple[int, int],
    version: Literal["0.4", "0.5"],
    mpps: tuple[float, float],
) -> None:
    made = Made(*mpps, bounds_xy=corner, ngff=version)
    result = make_result(tmp_path_factory.mktemp("made") / "result", np.ones((30, 600), np.uint8), made)
    attributes = read_attributes(result.mask_image.spec.path)
    points = np.array(xy)
    for level, dataset in enumerate(attributes.get("ome", attributes)["multiscales"][0]["datasets"]):
        scale, translation = (one[one["type"]][::-1] for one in dataset["coordinateTransformations"])
        # In the file: from pixel centres to microns from the centre of level 0's first pixel.
        microns = np.array(translation) + (points - 0.5) * np.array(scale)
        on_level0 = microns / mpps[1] + 0.5
        np.testing.assert_allclose(result.to_level0(points, level), on_level0, atol=1e-6)
        np.testing.assert_allclose(result.from_level0(result.to_level0(points, level), level), points, atol=1e-6)
    assert result.to_level0((0, 0)).tolist() == list(corner)


def test_positions_of_any_shape_and_of_an_unfinished_result(tmp_path: Path) -> None:
    result = make_result(tmp_path / "result", np.ones((30, 600), np.uint8), Made(state="running", first_level=1))
    assert result.to_level0((3, 2)).tolist() == [12.0, 8.0]
    assert result.to_level0(np.ones((2, 3, 2))).shape == (2, 3, 2)
    for wrong, level, text in (
        ((1, 2, 3), 0, r"shape \(3,\), not \(..., 2\)"),
        (3, 0, r"shape \(\), not"),
        ("ab", 0, "xy is 'ab', not numbers"),
        ((1, 2), 1, "level is 1, not between 0 and 0"),
    ):
        with pytest.raises(ConfigError, match=text):
            result.from_level0(wrong, level)


def test_the_pixel_at_a_position_is_the_one_that_a_region_reads(tmp_path: Path) -> None:
    result, mask = random_result(tmp_path / "result"), labels_of(tmp_path / "result")
    column, row = np.floor(result.from_level0((777.7, 555.5))).astype(int)
    assert result.region(777.2, 555.0, 1, 1, mpp=0.5).labels.tolist() == [[mask[row, column]]]
