"""GeoJSON that QuPath reads at the first try, in the right place, whatever the mask."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from shapely.geometry import shape

from tests.export.polygonize.traced import Labels, labels, painted
from tests.export.qupath_rules import features_of, violations
from tests.export.results import Made, damage, make_result
from tests.few import slow_except
from wsi_magnet.errors import ConfigError, ResultMismatchError, StoreError
from wsi_magnet.export.geojson import write_features, write_geojson
from wsi_magnet.export.objects import ObjectOptions
from wsi_magnet.export.qupath import SAME_RESULT, FeatureStyle, ObjectType, class_name, object_id
from wsi_magnet.labels import LabelClass
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import Exported, FileOptions, provisional

SIZE = 40


def blank() -> Labels:
    return np.zeros((SIZE, SIZE), np.uint8)


def square(value: int = 3) -> Labels:
    image = blank()
    image[10:20, 10:30] = value
    return image


def export(source: Result, target: Path, style: FeatureStyle | None = None, **options: Any) -> Exported:
    files = FileOptions(part_bytes=options.pop("part_bytes", 0), overwrite=options.pop("overwrite", False))
    return write_geojson(source, target, ObjectOptions(**options), style or FeatureStyle(), files)


def exported(source: Result, tmp_path: Path, style: FeatureStyle | None = None, **options: Any) -> list[Any]:
    return features_of(export(source, tmp_path / "x.geojson", style, overwrite=True, **options).files[0])


@given(labels(classes=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mask_comes_back_pixel_by_pixel(tmp_path: Path, image: Labels) -> None:
    source = make_result(tmp_path / "result", image, Made(slide_mpp=1.0))
    value = {class_name(c): c.value for c in source.classes}
    features = exported(source, tmp_path)
    found = painted(
        image.shape, [(shape(f["geometry"]), value[f["properties"]["classification"]["name"]]) for f in features]
    )
    assert np.array_equal(found, image)


@pytest.mark.parametrize(
    "options",
    slow_except([{}], [{}, {"simplify_um": 2.0}, {"max_vertices": 12}, {"min_area_um2": 30.0}]),
)
def test_no_rule_of_qupath_is_broken(tmp_path: Path, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 5, (100, 100), np.uint8), np.ones((12, 12), np.uint8))
    source = make_result(tmp_path / "result", image, Made(slide_mpp=0.2528))
    written = export(source, tmp_path / "x.geojson", **options)
    assert written.objects > 100
    assert violations(written.files[0]) == []


def test_points_are_level_0_pixels_from_the_corner_of_a_pixel(tmp_path: Path) -> None:
    (feature,) = exported(make_result(tmp_path / "result", square(), Made(slide_mpp=0.25)), tmp_path)
    assert shape(feature["geometry"]).bounds == (40, 40, 120, 80)


def test_bounds_are_subtracted_as_qupath_crops(tmp_path: Path) -> None:
    """A MIRAX slide: its bounds begin at (9153, 102664), and QuPath's image there."""
    made = Made(slide_mpp=0.5, bounds_xy=(9153, 102664), beyond=500)
    (feature,) = exported(make_result(tmp_path / "result", square(), made), tmp_path)
    assert shape(feature["geometry"]).bounds == (20, 20, 60, 40)


def test_the_frame_of_level_0_counts_from_the_slides_corner(tmp_path: Path) -> None:
    made = Made(slide_mpp=0.5, bounds_xy=(9153, 102664), beyond=500)
    (feature,) = exported(make_result(tmp_path / "result", square(), made), tmp_path, frame="level0")
    assert shape(feature["geometry"]).bounds == (9173, 102684, 9213, 102704)


def test_nothing_reaches_beyond_the_slide(tmp_path: Path) -> None:
    """The last pixel of a mask may cover a part of a level-0 pixel that is not there."""
    image = blank()
    image[:, -1], image[-1] = 3, 3
    (feature,) = exported(make_result(tmp_path / "result", image, Made(slide_mpp=0.263)), tmp_path)
    width = int(SIZE / 0.263)
    assert shape(feature["geometry"]).bounds == (0, 0, width, width)


def test_area_is_that_of_the_pixels(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", square(), Made(mpp=0.5, slide_mpp=0.25))
    (feature,) = exported(source, tmp_path)
    assert feature["properties"]["measurements"] == {"MagNet: Gleason 3 area µm^2": 50.0}


def test_means_are_those_of_the_regions_own_class(tmp_path: Path) -> None:
    image = square()
    probabilities = np.zeros((4, *image.shape), np.uint8)
    probabilities[2, 10:20, 10:30] = 204
    uncertainty = np.where(image > 0, 51, 255).astype(np.uint8)
    source = make_result(tmp_path / "result", image, probabilities=probabilities, uncertainty=uncertainty)
    (feature,) = exported(source, tmp_path)
    measured = feature["properties"]["measurements"]
    assert (measured["MagNet: mean probability"], measured["MagNet: mean uncertainty"]) == (0.8, 0.2)


def test_a_pattern_is_a_class_of_its_own_or_one_of_tumor(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", square())
    flat, derived = (
        exported(source, tmp_path, FeatureStyle(naming=naming))[0]["properties"]["classification"]
        for naming in ("flat", "derived")
    )
    assert (flat, derived) == (
        {"name": "Gleason 3", "color": [255, 220, 60]},
        {"names": ["Tumor", "Gleason 3"], "color": [255, 220, 60]},
    )


def test_a_colon_in_a_class_makes_no_levels(tmp_path: Path) -> None:
    made = Made(classes=(LabelClass(3, "Odd: one*", (1, 2, 3)),))
    (feature,) = exported(make_result(tmp_path / "result", square(), made), tmp_path)
    assert feature["properties"]["classification"]["name"] == "Odd - one"


def test_what_was_not_analysed_is_a_class_that_qupath_ignores(tmp_path: Path) -> None:
    (feature,) = exported(make_result(tmp_path / "result", square(255)), tmp_path)
    assert feature["properties"]["classification"]["name"] == "Not analysed*"


def test_only_the_classes_that_are_asked_for(tmp_path: Path) -> None:
    image = square()
    image[25:35, 10:20] = 4
    (feature,) = exported(make_result(tmp_path / "result", image), tmp_path, classes=("gleason 4",))
    assert feature["properties"]["classification"]["name"] == "Gleason 4"


def test_a_class_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no class tumor; its classes are stroma"):
        exported(make_result(tmp_path / "result", square()), tmp_path, classes=("tumor",))


def test_the_same_export_has_the_same_bytes(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", square())
    first, second = (export(source, tmp_path / f"{n}.geojson.gz").files[0].read_bytes() for n in "ab")
    assert first == second


def test_small_regions_and_holes_go_together(tmp_path: Path) -> None:
    image = square()
    image[14, 14] = 4
    (feature,) = exported(make_result(tmp_path / "result", image), tmp_path, min_area_um2=5)
    assert len(feature["geometry"]["coordinates"]) == 1


def test_an_empty_mask_is_an_empty_collection(tmp_path: Path) -> None:
    written = export(make_result(tmp_path / "result", blank()), tmp_path / "x.geojson")
    assert (features_of(written.files[0]), written.notes) == (
        [],
        ("the mask has no region of these classes, so the file has no objects",),
    )


def test_a_run_under_way_gives_what_it_has(tmp_path: Path) -> None:
    image = np.kron(square(), np.ones((32, 32), np.uint8))
    source = make_result(tmp_path / "result", image, Made(slide_mpp=1.0, state="running", first_level=1))
    written = export(source, tmp_path / "x.geojson")
    (feature,) = features_of(written.files[0])
    assert shape(feature["geometry"]).bounds == (320, 320, 960, 640)
    assert written.notes == ("the run is not finished: this is what it has found at 2 µm/px",)
    about = json.loads(written.files[0].read_text())["wsi-magnet"]
    assert (about["preliminary"], about["alarms"]) == (True, ["preliminary"])


def test_large_files_are_parted(tmp_path: Path) -> None:
    image = np.zeros((60, 60), np.uint8)
    image[::3, ::3] = 3
    source = make_result(tmp_path / "result", image)
    written = export(source, tmp_path / "x.geojson", part_bytes=10_000)
    assert len(written.files) > 9
    assert [path.name for path in written.files] == [f"x.part-{n:02}.geojson" for n in range(1, len(written.files) + 1)]
    assert sum(len(features_of(path)) for path in written.files) == written.objects == 400


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.geojson").write_text("mine")
    with pytest.raises(StoreError, match=r"x.geojson exists; .*--overwrite"):
        export(make_result(tmp_path / "result", square()), tmp_path / "x.geojson")
    assert (tmp_path / "x.geojson").read_text() == "mine"


def test_parts_of_an_earlier_export_go_with_it(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", np.kron(np.eye(30), np.ones((2, 2))).astype(np.uint8))
    export(source, tmp_path / "x.geojson", part_bytes=3000)
    export(source, tmp_path / "x.geojson", overwrite=True)
    assert sorted(path.name for path in tmp_path.glob("*.geojson")) == ["x.geojson"]


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", square())
    (tmp_path / "result" / "mask.ome.zarr" / "0" / "0" / "0").write_bytes(b"no chunk")
    with pytest.raises(StoreError):
        export(source, tmp_path / "x.geojson")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_exports_of_two_processes_do_not_write_into_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = provisional(tmp_path / "x.geojson")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert provisional(tmp_path / "x.geojson") != first


def test_an_export_that_another_one_overtakes_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = make_result(tmp_path / "result", square()), tmp_path / "x.geojson"

    def overtaken() -> Iterator[dict[str, Any]]:
        yield {}
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: -1)
            export(source, target)

    write_features(overtaken(), target, {}, FileOptions(overwrite=True))
    assert (sorted(p.name for p in tmp_path.iterdir()), features_of(target)) == (["result", "x.geojson"], [{}])


def test_a_slide_whose_name_is_no_text_is_exported_with_marks_for_those_bytes(tmp_path: Path) -> None:
    record = make_result(tmp_path / "result", square()).record
    damage(tmp_path / "result", slide={**record.to_json()["slide"], "path": "slides/a\udce9.svs"})
    export(Result(tmp_path / "result"), tmp_path / "x.geojson")
    assert '"slide": "a?.svs"' in (tmp_path / "x.geojson").read_text(encoding="utf-8")


def test_a_name_that_qupath_passes_over_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no suffix that QuPath reads"):
        export(make_result(tmp_path / "result", square()), tmp_path / "x.txt")


def test_a_result_of_another_version_is_refused(tmp_path: Path) -> None:
    make_result(tmp_path / "result", square())
    damage(tmp_path / "result", version=0)
    with pytest.raises(ResultMismatchError, match="version 0"):
        Result(tmp_path / "result")


def test_a_result_without_its_parts_is_refused(tmp_path: Path) -> None:
    make_result(tmp_path / "result", square())
    damage(tmp_path / "result", scales=[])
    with pytest.raises(ResultMismatchError, match="is damaged"):
        Result(tmp_path / "result")


def test_parts_of_one_slide_are_no_file_of_another(tmp_path: Path) -> None:
    """A cohort may have slides "x" and "x-1"."""
    source = make_result(tmp_path / "result", square())
    for name in ("x-1", "x-01", "x"):
        export(source, tmp_path / f"{name}.geojson")
    export(source, tmp_path / "x.geojson", overwrite=True)
    assert sorted(path.name for path in tmp_path.glob("*.geojson")) == ["x-01.geojson", "x-1.geojson", "x.geojson"]


def test_objects_can_be_edited_unless_they_are_locked(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", square())
    found = [exported(source, tmp_path, FeatureStyle(locked=locked))[0]["properties"] for locked in (False, True)]
    assert [one.get("isLocked") for one in found] == [None, True]


@pytest.mark.parametrize("kind", ["detection", "tile"])
def test_only_annotations_have_metadata(tmp_path: Path, kind: ObjectType) -> None:
    """For every other object with metadata QuPath 0.5.1 logs a stack trace."""
    source = make_result(tmp_path / "result", square())
    (feature,) = exported(source, tmp_path, FeatureStyle(kind, metadata={"frame": "qupath"}))
    assert "metadata" not in feature["properties"]


def test_a_class_of_qupath_is_written_as_qupath_does(tmp_path: Path) -> None:
    (feature,) = exported(make_result(tmp_path / "result", square(1)), tmp_path)
    properties = feature["properties"]
    assert (properties["classification"]["name"], list(properties["measurements"])) == (
        "Stroma",
        ["MagNet: Stroma area µm^2"],
    )


def test_exact_and_simplified_outlines_are_the_same_objects(tmp_path: Path) -> None:
    """So that QuPath asks before it lays one over the other."""
    image = np.kron(np.random.default_rng(0).integers(0, 3, (30, 30), np.uint8), np.ones((6, 6), np.uint8))
    source = make_result(tmp_path / "result", image)
    exact, smooth = (
        {f["id"] for f in exported(source, tmp_path, FeatureStyle(identity="x"), simplify_um=um)} for um in (0.0, 2.0)
    )
    assert exact == smooth
    assert len(exact) > 100
    assert {one[:SAME_RESULT] for one in exact} == {object_id("x", "anything")[:SAME_RESULT]}


def test_metadata_says_where_objects_come_from(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", square())
    (feature,) = exported(source, tmp_path, FeatureStyle(metadata={"frame": "qupath"}))
    assert feature["properties"]["metadata"] == {"frame": "qupath"}


def test_a_region_that_fills_the_slide_is_its_rectangle(tmp_path: Path) -> None:
    (feature,) = exported(make_result(tmp_path / "result", np.full((1100, 900), 1, np.uint8)), tmp_path)
    assert shapely.equals(shape(feature["geometry"]), shapely.box(0, 0, 1800, 2200))
