"""Tables and annotations of a run's regions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import shapely

from tests.annotations.made import feature, square, write_geojson
from tests.commands import Call, one_line
from tests.runs import MadeRun, run_serially
from wsi_magnet.config import RunConfig


@pytest.fixture(scope="module")
def done(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result with two regions."""
    folder = tmp_path_factory.mktemp("regions")
    path = write_geojson(
        folder / "drawn.geojson",
        feature([square(100, 200, 700, 900)], "tumor", name="upper"),
        feature([square(600, 1000, 1000, 1300), square(700, 1100, 800, 1200)], None),
    )
    return run_serially(made_run, folder, RunConfig(tile_px=512, roi=str(path))).folder


def test_a_row_a_region(call: Call, done: Path, tmp_path: Path) -> None:
    call("export", done, "--to", "roi-csv", "-o", tmp_path / "regions.csv")
    with (tmp_path / "regions.csv").open() as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((done / "summary.json").read_text())["regions"]
    assert [(row["region"], row["region_class"]) for row in rows] == [("upper", "tumor"), ("Region", "")]
    for row, one in zip(rows, summary, strict=True):
        for share in one["classes"]:
            assert float(row[f"{share['name']} mm2"]) == pytest.approx(share["area_mm2"], abs=1e-6)
            assert float(row[f"{share['name']} percent"]) == pytest.approx(share["percent"], abs=1e-4)
        assert sum(float(row[f"{name} mm2"]) for name in ("red", "green", "blue")) > 0
    assert float(rows[0]["region_mm2"]) == pytest.approx(600 * 700 * 0.499**2 / 1e6, rel=1e-5)


def test_regions_go_back_to_qupath_with_measurements(call: Call, done: Path, tmp_path: Path) -> None:
    call("export", done, "--to", "roi-geojson", "-o", tmp_path / "regions.geojson")
    first, second = json.loads((tmp_path / "regions.geojson").read_text())["features"]
    summary = json.loads((done / "summary.json").read_text())["regions"]
    assert first["properties"]["name"] == "upper"
    assert first["properties"]["classification"]["name"] == "Tumor"
    assert "classification" not in second["properties"]
    red = summary[0]["classes"][0]
    assert first["properties"]["measurements"]["MagNet: red %"] == pytest.approx(red["percent"], abs=1e-4)
    assert first["properties"]["measurements"]["MagNet: red area µm^2"] == pytest.approx(
        1e6 * red["area_mm2"], abs=1e-2
    )
    assert shapely.from_geojson(json.dumps(second["geometry"])).area == 400 * 300 - 100 * 100


def test_a_result_without_regions_is_refused(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    folder = run_serially(made_run, tmp_path, RunConfig(tile_px=512)).folder
    for kind, name in (("roi-csv", "a.csv"), ("roi-geojson", "a.geojson")):
        refused = one_line(call("export", folder, "--to", kind, "-o", tmp_path / name))
        assert "was made without --roi; --to csv has the areas of the slide" in refused
        assert not (tmp_path / name).exists()


def test_the_report_has_the_regions(call: Call, done: Path, tmp_path: Path) -> None:
    call("report", done, "-o", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<h2>Regions</h2>" in text
    assert '<th scope="row">upper</th><td>tumor</td>' in text
    assert "drawn.geojson" in text
