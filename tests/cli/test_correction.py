"""The loop "segment, export to QuPath, correct, train further", by the commands of docs/training.md alone; QuPath's
part, another class for a region, is done to its file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
import tifffile
from PIL import Image as Pillow
from shapely.geometry import shape

from tests.commands import call_command
from tests.evaluate.made import stay_here
from tests.train.made import SMALL_VALIDATION_PX, quick_survey, tiny_config, write_config
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.train import pipeline
from wsi_magnet.train.config import AugmentConfig, ClassConfig

SIDE_PX, RADIUS_PX = 256, 30
COLOURS = {"stroma": (225, 200, 228), "gland": (206, 96, 150), "nest": (96, 70, 160)}
VALUES = {"stroma": 1, "gland": 2, "nest": 3}
MPP_1: dict[str, Any] = {"resolution": (10_000, 10_000), "resolutionunit": "CENTIMETER"}
"""Tags of a TIFF of 1 micrometre a pixel."""
CENTRES_XY = ((45, 45), (150, 45), (210, 140), (45, 150), (140, 210))
"""Discs, of the two classes in turn."""


def painted(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Discs of glands and nests in stroma: uint8 (side, side, 3) RGB, and the values of the classes, uint8."""
    rng = np.random.default_rng(seed)
    truth = np.full((SIDE_PX, SIDE_PX), VALUES["stroma"], np.uint8)
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    for number, centre_xy in enumerate(CENTRES_XY):
        centre_x, centre_y = centre_xy + rng.integers(-8, 9, 2)
        truth[(x - centre_x) ** 2 + (y - centre_y) ** 2 < RADIUS_PX**2] = VALUES[("gland", "nest")[(number + seed) % 2]]
    colours = np.zeros((4, 3))
    colours[1:] = list(COLOURS.values())
    image = colours[truth] + rng.normal(0, 6, (*truth.shape, 3))
    return np.clip(image, 0, 255).astype(np.uint8), truth


def write_study(folder: Path, seeds: range, *, masks: bool) -> None:
    """Images of patients, and masks in which all nests but those of one patient are taken for glands."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for seed in seeds:
        image, truth = painted(seed)
        tifffile.imwrite(folder / "images" / f"P{seed:02}_a.tif", image, tile=(64, 64), photometric="rgb", **MPP_1)
        if masks:
            wrong = np.where((truth == VALUES["nest"]) & (seed != seeds[0]), VALUES["gland"], truth)
            Pillow.fromarray(wrong.astype(np.uint8)).save(folder / "masks" / f"P{seed:02}_a.png")


def correct(exported: Path, corrected: Path, truth: npt.NDArray[np.uint8]) -> int:
    """Give each region of an export the class that most of it has, as one would in QuPath; the number of changes.

    Regions are in pixels of the image. A corner was not analysed.
    """
    collection, changed = json.loads(exported.read_text()), 0
    points = shapely.points(*np.mgrid[0:SIDE_PX, 0:SIDE_PX][::-1] + 0.5)
    for feature in collection["features"]:
        inside = truth[shapely.contains(shape(feature["geometry"]), points)]
        own = feature["properties"]["classification"]
        name = list(VALUES)[np.bincount(inside, minlength=4)[1:].argmax()]
        changed += own["name"].lower() != name
        own["name"] = name
    failed = {"objectType": "annotation", "classification": {"name": "Not analysed*"}}
    corner = json.loads(shapely.to_geojson(shapely.box(0, 0, 9, 9)))
    collection["features"].append({"type": "Feature", "geometry": corner, "properties": failed})
    corrected.write_text(json.dumps(collection))
    return changed


def done(*arguments: object) -> str:
    """The output of a command that succeeds."""
    result = call_command(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def ious(manifest: Path, *bundles: Path) -> list[dict[str, float]]:
    """IoU of each class on the test rows, by bundle."""
    options = [option for bundle in bundles for option in ("--bundle", bundle)]
    found = json.loads(done("evaluate", manifest, *options, "--methods", "magnet", "--no-tissue", "--json"))
    return [{name: row["measures"][f"iou: {name}"]["value"] for name in VALUES} for row in found["rows"]]


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_here(monkeypatch)
    monkeypatch.setattr(pipeline, "VALIDATION_PX", SMALL_VALIDATION_PX)
    monkeypatch.setattr(pipeline, "survey_rows", quick_survey)


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_regions_that_were_corrected_in_qupath_are_learned(tmp_path: Path) -> None:
    write_study(tmp_path / "study", range(5), masks=True)
    config = tiny_config(
        mpps=(2.0, 1.0),
        classes=tuple(ClassConfig(name, VALUES[name], color) for name, color in COLOURS.items()),
        backbone={"network_args": {"width": 4}, "steps": 100, "batch": 4, "validate_every": 20},
        refiners={"steps": 6, "validate_every": 6},
        augment=AugmentConfig(stain=0.1, light=0.1),
        halo_px=16,
    )
    study, written = tmp_path / "study.safetensors", write_config(tmp_path / "study.yaml", config)
    listed = ("--group-pattern", "^(P[0-9]+)_")
    done("manifest", "folders", tmp_path / "study", "-o", tmp_path / "study.csv", *listed, "--validation", "P04")
    trained = ("--config", written, "--device", "cpu", "--threads", 1)
    done("train", tmp_path / "study.csv", *trained, "-o", study)

    write_study(tmp_path / "new", range(10, 14), masks=False)
    images = tmp_path / "new" / "images"
    done("batch", images, "-o", tmp_path / "results", "--bundle", study, "--no-tissue")
    qupath = tmp_path / "for-qupath"
    done("export", tmp_path / "results", "--to", "qupath-project", "-o", qupath, "--simplify", 1, "--min-area", 100)
    changed = [
        correct(qupath / "objects" / f"P{seed}_a.geojson", tmp_path / "new" / "masks" / f"P{seed}_a.geojson", truth)
        for seed, (_, truth) in ((seed, painted(seed)) for seed in range(10, 14))
    ]
    assert min(changed) > 0

    corrected = tmp_path / "corrected.csv"
    split = ("--validation", "P12", "--test", "P13")
    masks = ("--images", ".", "--masks", tmp_path / "new" / "masks")
    done("manifest", "folders", images, *masks, "-o", corrected, *listed, *split)
    further = tmp_path / "study-2.safetensors"
    done("train", corrected, *trained, "--from", study, "-o", further)
    both = tmp_path / "both.csv"
    done("manifest", "merge", tmp_path / "study.csv", corrected, "-o", both)
    found = json.loads(
        done("train", both, *trained, "--from", study, "-o", tmp_path / "3.safetensors", "--check", "--json")
    )
    assert len(found["rows"]["train"]) == 6
    before, after = ious(corrected, study, further)
    assert before["nest"] < 0.3 < 0.7 < after["nest"]
    assert after["gland"] > before["gland"] + 0.3
    assert after["stroma"] > 0.9
    assert read_spec(study)[1] in read_spec(further)[0].card["fine-tuned from"]
