"""`wsi-magnet export`: from a run's result to files, and one line for what cannot be."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy.ndimage import binary_fill_holes
from shapely.geometry import shape
from skimage.draw import polygon

from tests.commands import Call, one_line
from tests.export.qupath_rules import features_of, violations
from tests.export.results import make_result
from tests.runs import MadeRun, free_spec, labels_of, run_serially, write_bundle
from wsi_magnet.cohort.state import SlideState, States
from wsi_magnet.config import RunConfig
from wsi_magnet.results.reader import Result


@pytest.fixture(scope="module")
def real(small_svs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a real slide, with everything that a run can keep: at 8 µm/px, where a network that sees no
    neighbours leaves some thousand regions.
    """
    folder = tmp_path_factory.mktemp("real")
    bundle = write_bundle(folder / "free.safetensors", free_spec(mpps=(32.0, 16.0, 8.0)))
    config = RunConfig(tile_px=512, keep_probabilities=True, keep_uncertainty=True)
    return run_serially(MadeRun(small_svs, bundle), folder / "out", config).folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 8:40] = 3
    make_result(tmp_path / "result", mask)
    return tmp_path / "result"


@pytest.mark.parametrize("options", [(), ("--simplify", "2", "--min-area", "50"), ("--object-type", "detection")])
def test_a_real_result_breaks_no_rule_of_qupath(
    call: Call, real: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = call("export", real, "--to", "geojson", "-o", tmp_path / "x.geojson", *options)
    assert (done.exit_code, violations(tmp_path / "x.geojson")) == (0, [])


def test_areas_of_all_regions_are_those_of_the_mask(call: Call, real: Path, tmp_path: Path) -> None:
    call("export", real, "--to", "geojson", "-o", tmp_path / "x.geojson")
    found = sum(next(iter(f["properties"]["measurements"].values())) for f in features_of(tmp_path / "x.geojson"))
    assert found == pytest.approx(np.count_nonzero(labels_of(real)) * 64)


def test_a_real_mask_filled_again_by_scikit_image_is_the_mask(call: Call, real: Path, tmp_path: Path) -> None:
    call("export", real, "--to", "geojson", "-o", tmp_path / "x.geojson")
    source = Result(real)
    mask = labels_of(real)
    value = {one.name: one.value for one in source.classes}
    found = np.zeros_like(mask)
    # Holes are filled as well, and what lies in them after them: the larger come first.
    features = sorted(features_of(tmp_path / "x.geojson"), key=lambda f: -shape(f["geometry"]).envelope.area)
    for feature in features:
        shell = np.array(feature["geometry"]["coordinates"][0]) / source.geometry.downsample_xy
        rows, columns = polygon(shell[:, 1] - 0.5, shell[:, 0] - 0.5, mask.shape)
        found[rows, columns] = value[feature["properties"]["classification"]["name"]]
    # The centres of the last row and column lie beyond the slide, where the polygons end.
    found, mask = found[:-1, :-1], mask[:-1, :-1]
    assert np.array_equal(found[mask > 0], mask[mask > 0])
    assert not found[~binary_fill_holes(mask > 0)].any()


def test_it_says_what_it_has_written(call: Call, small: Path, tmp_path: Path) -> None:
    done = call("export", small, "--to", "geojson", "-o", tmp_path / "x.geojson.gz")
    assert done.stdout.split() == [str(tmp_path / "x.geojson.gz")]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("geojson", "x.geojson"), ("tiles", "x.json"), ("qupath-script", "x.groovy"), ("ome-tiff", "x.tif")),
        ("qupath-project", "folder"),
    ],
)
def test_everything_can_be_made_of_a_real_result(call: Call, real: Path, tmp_path: Path, kind: str, name: str) -> None:
    target = tmp_path / (name if kind != "ome-tiff" else "x.ome.tif")
    done = call("export", real, "--to", kind, "-o", target)
    assert (done.exit_code, target.exists()) == (0, True), done.stderr


def test_the_ome_tiff_is_the_mask(call: Call, real: Path, tmp_path: Path) -> None:
    call("export", real, "--to", "ome-tiff", "-o", tmp_path / "x.ome.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "x.ome.tif"), labels_of(real))


def test_an_option_of_another_kind_is_refused(call: Call, small: Path, tmp_path: Path) -> None:
    done = call("export", small, "--to", "csv", "-o", tmp_path / "x.csv", "--simplify", "2")
    told = "Error: --simplify has no effect with --to csv, only with geojson, qupath-script, qupath-project\n"
    assert (done.exit_code, done.stderr) == (1, told)


def test_a_project_is_made_of_several_results_or_of_a_batch_s_folder(call: Call, small: Path, tmp_path: Path) -> None:
    for name in "ab":
        make_result(tmp_path / "batch" / name, np.ones((64, 64), np.uint8))
    states = [SlideState(name=name, slide=f"/s/{name}.svs", state="finished") for name in "ab"]
    write_states(tmp_path / "batch", states)
    done = call("export", tmp_path / "batch", small, "--to", "qupath-project", "-o", tmp_path / "x", "--locked")
    assert (done.exit_code, sorted(path.name for path in (tmp_path / "x" / "objects").iterdir())) == (
        0,
        ["a.geojson", "b.geojson", "result.geojson"],
    )
    assert done.stdout.splitlines()[:2] == [str(tmp_path / "x" / n) for n in ("import-results.groovy", "results.json")]


def test_a_project_of_a_batch_names_the_slides_that_have_no_result(call: Call, tmp_path: Path) -> None:
    for name in "ab":  # b: an earlier result of a slide that failed since
        make_result(tmp_path / "batch" / name, np.ones((64, 64), np.uint8))
    failed = SlideState(name="b", slide="/s/b.svs", state="failed", error="no JPEG", error_type="SlideReadError")
    finished = SlideState(name="a", slide="/s/a.svs", state="finished")
    write_states(tmp_path / "batch", [finished, failed, SlideState(name="c", slide="/s/c.svs")])
    told = one_line(call("export", tmp_path / "batch", "--to", "qupath-project", "-o", tmp_path / "x"))
    assert told.startswith(f"Error: 2 of 3 slides are not in {tmp_path / 'x'}: b (failed: no JPEG); c (waiting); ")
    assert [path.name for path in (tmp_path / "x" / "objects").iterdir()] == ["a.geojson"]


def write_states(folder: Path, states: list[SlideState]) -> None:
    """Make the folder one of a batch with these slides."""
    States(folder).make()
    States(folder).write_all(states)


def test_the_script_for_annotations_needs_no_result(call: Call, small: Path, tmp_path: Path) -> None:
    done = call("export", "--to", "qupath-annotations", "-o", tmp_path / "x.groovy")
    assert (done.exit_code, "getAnnotationObjects" in (tmp_path / "x.groovy").read_text()) == (0, True)
    refused = call("export", small, "--to", "qupath-annotations", "-o", tmp_path / "y.groovy")
    assert (refused.exit_code, "needs no RESULT" in refused.stderr) == (2, True)


@pytest.mark.parametrize(("results", "told"), [(0, "Missing argument"), (2, "takes one RESULT, not 2")])
def test_other_kinds_take_one_result(call: Call, small: Path, tmp_path: Path, results: int, told: str) -> None:
    done = call("export", *[small] * results, "--to", "geojson", "-o", tmp_path / "x.geojson")
    assert (done.exit_code, told in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--simplify", "-1"), "--simplify must be 0 to 10,000 microns, and --min-area 0 or more; got -1 and 0"),
        (("--simplify", "nan"), "--simplify must be 0 to 10,000 microns, and --min-area 0 or more; got nan and 0"),
        (("--max-vertices", "3"), "--max-vertices must be 8 or more; got 3"),
        (("--classes", "tumor"), "has no class tumor; its classes are stroma, benign epithelium"),
    ],
)
def test_what_cannot_be_is_one_line(
    call: Call, small: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = call("export", small, "--to", "geojson", "-o", tmp_path / "x.geojson", *arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_no_result_is_told_so(call: Call, tmp_path: Path) -> None:
    done = call("export", tmp_path, "--to", "geojson", "-o", tmp_path / "x.geojson")
    assert (done.exit_code, "is no result folder" in done.stderr) == (1, True)


def test_an_existing_file_needs_overwrite(call: Call, small: Path, tmp_path: Path) -> None:
    (tmp_path / "x.geojson").write_text("mine")
    refused = call("export", small, "--to", "geojson", "-o", tmp_path / "x.geojson")
    replaced = call("export", small, "--to", "geojson", "-o", tmp_path / "x.geojson", "--overwrite")
    assert (refused.exit_code, replaced.exit_code) == (1, 0)
    assert json.loads((tmp_path / "x.geojson").read_text())["type"] == "FeatureCollection"


def test_a_full_disk_leaves_nothing_behind(
    call: Call, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = Path.open

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name.endswith(".partial"):
            opened(path, "wb").close()
            return Full()
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    done = call("export", small, "--to", "geojson", "-o", tmp_path / "x.geojson")
    assert (done.exit_code, "no space left" in done.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--classes", ","], "--classes ',' names no class"),
        (["--classes", ""], "--classes '' names no class"),
        (["--simplify", "1e300"], "--simplify must be 0 to 10,000 microns"),
    ],
)
def test_options_that_would_export_something_else_are_refused(
    call: Call, tmp_path: Path, options: list[str], text: str
) -> None:
    make_result(tmp_path / "r", np.full((64, 64), 3, np.uint8))
    assert text in one_line(call("export", tmp_path / "r", "--to", "geojson", "-o", tmp_path / "x.geojson", *options))
    assert not (tmp_path / "x.geojson").exists()
