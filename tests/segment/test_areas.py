"""Runs within areas: the mask of the whole slide there, background elsewhere, and areas by region."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image

from tests.annotations.made import feature, square, write_geojson
from tests.commands import Call, one_line
from tests.few import slow_except
from tests.runs import MadeRun, labels_of, run_serially
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import AnnotationError, ConfigError, ResultMismatchError
from wsi_magnet.results.events import Event, TileFinished
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.segment.slide import segment_slide

Labels = np.ndarray[Any, np.dtype[np.uint8]]

STAR = [[900.0, 700.0], [1900.0, 1500.0], [2100.0, 900.0], [1300.0, 2000.0], [700.0, 1250.5], [900.0, 700.0]]
RING = [square(1400, 200, 2100, 900), square(1600, 400, 1800, 700)]
"""A region with a hole."""


@pytest.fixture(scope="module")
def whole(long_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a run of the whole slide."""
    config = RunConfig(tile_px=512, keep_uncertainty=True, keep_probabilities=True)
    return run_serially(long_run, tmp_path_factory.mktemp("whole"), config).folder


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four regions: a star, a ring, many small squares, and one that leaves the slide."""
    small = [[square(x, y, x + 9.5, y + 7.25)] for x in range(300, 800, 37) for y in range(2300, 2600, 41)]
    return write_geojson(
        tmp_path_factory.mktemp("drawn") / "regions.geojson",
        feature([STAR], "Tumor", name="star"),
        feature(RING, "Stroma"),
        feature({"type": "MultiPolygon", "coordinates": small}, "Tumor", name="small"),
        feature([square(-500, -500, 400, 400)], "Stroma"),
    )


def outlines(path: Path) -> list[Any]:
    """Outlines of a file's regions, read by shapely alone."""
    features = json.loads(path.read_text())["features"]
    return [shapely.make_valid(shapely.from_geojson(json.dumps(one["geometry"]))) for one in features]


def inside(shape: Any, folder: Path, long_run: MadeRun) -> Labels:
    """Pixels of the mask whose centres shapely finds in an outline."""
    labels = labels_of(folder)
    (mpp_x, mpp_y), mpp = _mpp(folder)
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5
    return np.asarray(shapely.contains_xy(shape, x * mpp / mpp_x, y * mpp / mpp_y))


def _mpp(folder: Path) -> tuple[tuple[float, float], float]:
    record = ResultFolder(folder).read_run()
    assert record is not None
    return record.slide.mpp_xy, record.scales[-1].mpp


@pytest.mark.parametrize("tile_px", slow_except([512], [512, 1024]))
def test_the_mask_within_is_that_of_the_whole_slide(
    long_run: MadeRun, whole: Path, regions: Path, tmp_path: Path, tile_px: int
) -> None:
    config = RunConfig(tile_px=tile_px, roi=str(regions), keep_uncertainty=True, keep_probabilities=True)
    done = run_serially(long_run, tmp_path, config)
    found = inside(shapely.union_all(outlines(regions)), whole, long_run)
    assert 0.02 < found.mean() < 0.6
    for product in ("mask", "uncertainty", "probabilities"):
        expected = labels_of(whole, 0, product) * found
        assert (labels_of(done.folder, 0, product) == expected).all(), product
    counts = [np.bincount(labels_of(whole)[inside(one, whole, long_run)], minlength=4) for one in outlines(regions)]
    pixel_mm2 = (_mpp(whole)[1] / 1000) ** 2
    reported = done.summary["regions"]
    assert [one["name"] for one in reported] == ["star", "Stroma 1", "small", "Stroma 2"]
    assert [one["class"] for one in reported] == ["Tumor", "Stroma", "Tumor", "Stroma"]
    for one, count in zip(reported, counts, strict=True):
        assert [c["area_mm2"] for c in one["classes"]] == pytest.approx(count[1:4] * pixel_mm2)
    assert done.summary["analysed_mm2"] == pytest.approx(np.count_nonzero(labels_of(whole)[found]) * pixel_mm2)


def test_less_is_read(long_run: MadeRun, whole: Path, tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "one.geojson", feature([square(1100, 1100, 1200, 1200)]))
    done = run_serially(long_run, tmp_path, RunConfig(tile_px=512, roi=str(path)))
    before = json.loads((whole / "summary.json").read_text())["scales"]
    assert [one["cells"] for one in done.summary["scales"]] < [one["cells"] for one in before]
    assert done.summary["scales"][-1]["cells"] == 1


def test_what_is_excluded_is_background(long_run: MadeRun, whole: Path, regions: Path, tmp_path: Path) -> None:
    done = run_serially(long_run, tmp_path, RunConfig(tile_px=512, exclude=str(regions)))
    found = ~inside(shapely.union_all(outlines(regions)), whole, long_run)
    assert (labels_of(done.folder) == labels_of(whole) * found).all()
    assert done.summary["regions"] == []


def test_regions_are_chosen_by_class_and_name(long_run: MadeRun, whole: Path, regions: Path, tmp_path: Path) -> None:
    config = RunConfig(tile_px=512, roi=str(regions), roi_classes=("stroma", "Star"), exclude=str(regions))
    with pytest.raises(ConfigError, match=r"exclude .* covers all of roi"):
        run_serially(long_run, tmp_path, config)
    done = run_serially(long_run, tmp_path, RunConfig(tile_px=512, roi=str(regions), roi_classes=("stroma", "Star")))
    assert [one["name"] for one in done.summary["regions"]] == ["star", "Stroma 1", "Stroma 2"]
    with pytest.raises(ConfigError, match=r"roi_classes 'necrosis': .* has Stroma, Tumor"):
        run_serially(long_run, tmp_path / "other", RunConfig(tile_px=512, roi=str(regions), roi_classes=("Necrosis",)))


def test_a_label_image_has_regions_by_value(long_run: MadeRun, whole: Path, tmp_path: Path) -> None:
    labels = labels_of(whole)
    (mpp_x, mpp_y), mpp = _mpp(whole)
    width, height = 2220, 2967  # of the slide, whose pixels are not quite those of the mask
    values = np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    values[(x - 900) ** 2 + (y - 1000) ** 2 < 500**2] = 7
    values[(x // 16 + y // 16) % 3 == 0] = 0
    values[200:240, 100:900] = 2
    Image.fromarray(values).save(tmp_path / "regions.png")
    done = run_serially(long_run, tmp_path, RunConfig(tile_px=512, roi=str(tmp_path / "regions.png")))
    y, x = ((np.arange(n) + 0.5) * mpp / own for n, own in zip(labels.shape, (mpp_y, mpp_x), strict=True))
    y, x = (one[np.abs(one - one.round()) > 1e-9] for one in (y, x))  # not those on the edge of two pixels
    rows, cols = (np.minimum(one.astype(int), most - 1) for one, most in ((y, height), (x, width)))
    own = np.ix_((y * mpp_y / mpp).astype(int), (x * mpp_x / mpp).astype(int))
    assert (labels_of(done.folder)[own] == (labels[own] * (values[np.ix_(rows, cols)] > 0))).all()
    assert [one["name"] for one in done.summary["regions"]] == ["2", "7"]


@pytest.mark.slow
def test_processes_have_the_same_areas(long_run: MadeRun, regions: Path, tmp_path: Path) -> None:
    config = RunConfig(tile_px=512, roi=str(regions))
    alone = run_serially(long_run, tmp_path / "alone", config)
    done = segment_slide(
        long_run.slide, tmp_path, bundle=long_run.bundle, config=config, execution=Execution("cpu", workers=2)
    )
    assert (labels_of(done.folder) == labels_of(alone.folder)).all()
    assert done.summary["regions"] == alone.summary["regions"]


def test_other_regions_are_refused_and_moved_ones_are_not(long_run: MadeRun, regions: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.geojson"
    copy.write_bytes(regions.read_bytes())
    first = run_serially(long_run, tmp_path, RunConfig(tile_px=512, roi=str(copy)))
    again = run_serially(long_run, tmp_path, RunConfig(tile_px=512, roi=str(regions)))
    assert again.done_before
    assert again.summary == first.summary
    write_geojson(copy, feature([square(0, 0, 1000, 1000)]))
    with pytest.raises(ResultMismatchError, match=r"the content of --roi, --exclude and --tissue-mask was \w+ and is"):
        run_serially(long_run, tmp_path, RunConfig(tile_px=512, roi=str(copy)))
    with pytest.raises(ResultMismatchError, match="is not given"):
        run_serially(long_run, tmp_path, RunConfig(tile_px=512))


class Stopped(Exception):
    """End of a run after a few tiles."""


@pytest.mark.parametrize("damaged", [False, True])
def test_a_stopped_run_is_resumed(made_run: MadeRun, tmp_path: Path, damaged: bool) -> None:
    path = write_geojson(
        tmp_path / "two.geojson", feature([square(50, 50, 1100, 700)]), feature([square(300, 500, 900, 1300)])
    )
    config = RunConfig(tile_px=512, roi=str(path))
    whole = run_serially(made_run, tmp_path / "whole", config)

    def stop(event: Event) -> None:
        if isinstance(event, TileFinished) and event.result.scale == 2 and event.result.region_pixels:
            raise Stopped

    with pytest.raises(Stopped):
        run_serially(made_run, tmp_path, config, observe=stop)
    if damaged:
        journal = ResultFolder(tmp_path / "part").journal
        assert isinstance(journal, Path)
        text = journal.read_text()
        assert '"regions":{"0"' in text
        journal.write_text(text.replace('"regions":{"0"', '"regions":{"7"'))
    again = run_serially(made_run, tmp_path, config)
    assert (labels_of(again.folder) == labels_of(whole.folder)).all()
    assert again.summary["regions"] == whole.summary["regions"]


def test_tissue_is_taken_from_a_file(long_run: MadeRun, tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "tissue.geojson", feature([square(512, 512, 1536, 1024)]))
    done = run_serially(long_run, tmp_path, RunConfig(tile_px=512, tissue_mask=str(path)))
    labels = labels_of(done.folder)
    (mpp_x, _), mpp = _mpp(done.folder)
    ratio = mpp / mpp_x
    rows, cols = np.nonzero(labels)
    slack = 24 / mpp  # the tissue map has pixels of 8 µm, and colours decide at its border
    assert 512 / ratio - slack <= cols.min() < cols.max() <= 1536 / ratio + slack
    assert 512 / ratio - slack <= rows.min() < rows.max() <= 1024 / ratio + slack


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON, or truncated"),
        ('{"type": "FeatureCollection", "features": []}', r"none of its regions \(0\) lies on the slide"),
        (json.dumps(feature([square(1e6, 1e6, 2e6, 2e6)])), r"none of its regions \(1\) lies on the slide"),
        ("", "it is empty"),
    ],
)
def test_a_bad_file_is_refused_before_a_folder_is_made(
    long_run: MadeRun, tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    for name in ("roi", "exclude", "tissue_mask"):
        with pytest.raises(AnnotationError, match=rf"bad\.geojson: .*{words}"):
            run_serially(long_run, tmp_path / "out", RunConfig(**{name: str(path)}))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    with pytest.raises(AnnotationError, match=r"gone\.xml cannot be read: No such file"):
        run_serially(long_run, tmp_path / "out", RunConfig(roi=str(tmp_path / "gone.xml")))


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="roi_classes needs roi"):
        RunConfig(roi_classes=("Tumor",))
    with pytest.raises(ConfigError, match="exclude each other"):
        RunConfig(tissue_mask="a.png", tissue=False)


def test_plan_and_run_on_the_command_line(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "drawn.geojson", feature([square(100, 100, 200, 200)], "Tumor", name="one"))
    about = (made_run.slide, "--bundle", made_run.bundle, "--roi", path, "--tile", "512")
    planned = json.loads(call("plan", *about, "--no-time", "--json").stdout)
    assert planned["scales"][-1]["cells"] == 1
    done = call("run", *about, "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert "region    mm²  classes mm²  red %  green %  blue %\none" in done.stdout
    assert "outside the regions" in done.stdout
    error = one_line(call("run", *about, "--roi-classes", "gland", "-o", tmp_path / "other"))
    assert "--roi-classes 'gland'" in error
    assert error.endswith("has Tumor")
