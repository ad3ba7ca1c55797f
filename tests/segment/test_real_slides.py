"""All the real slides, from OpenSlide's formats to plain mosaics, through the program as users run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Call, one_line
from tests.few import slow_except
from tests.runs import labels_of

MOSAIC_MPP = "0.93"

SLIDES = {
    "slides/CMU-1-Small-Region.svs": [],
    "slides/BS9_HE2.tif": [],
    "slides/tiff_with_asap_xml/example.tif": [],
    "slides/camelyon_low.dcm": ["--mpp", "8"],  # its own 29 µm are too coarse for the bundle
    "rings_mosaics/P1_D5_3_12_tiles4-5-6_no-mpp.tif": ["--mpp", MOSAIC_MPP],
}


@pytest.mark.parametrize("name", slow_except(["slides/tiff_with_asap_xml/example.tif"], SLIDES))
def test_it_runs(call: Call, test_data: Path, tmp_path: Path, name: str) -> None:
    """With the shipped bundle; all but one are refined in part, to keep the suite short."""
    slide = test_data / name
    part = [] if name == "slides/CMU-1-Small-Region.svs" else ["--refine", "0.1"]
    result = call("run", slide, "-o", tmp_path, *SLIDES[name], *part)
    assert result.exit_code == 0, result.output
    folder = tmp_path / slide.stem
    run = json.loads((folder / "run.json").read_text())
    mask = labels_of(folder)
    known = {c["value"] for c in run["bundle"]["classes"]} | {0}
    assert mask.shape == tuple(reversed(run["scales"][-1]["size_wh"]))
    assert mask.any()
    assert set(np.unique(mask).tolist()) <= known
    assert call("overlay", folder, "--size", "600").exit_code == 0


def test_a_slide_without_mpp_is_refused_with_the_cure(call: Call, test_data: Path, tmp_path: Path) -> None:
    slide = test_data / "rings_mosaics" / "P1_D5_9_13_tiles4-6_no-mpp.tif"
    assert "pass --mpp" in one_line(call("run", slide, "-o", tmp_path))


def test_what_is_no_slide_is_refused(call: Call, test_data: Path, tmp_path: Path) -> None:
    assert "broken.svs" in one_line(call("run", test_data / "awkward" / "broken.svs", "-o", tmp_path))


@pytest.mark.slow
def test_glands_of_a_held_out_mosaic_are_found(call: Call, test_data: Path, tmp_path: Path) -> None:
    """The shipped bundle on tiles it was not trained on: more agreement with the annotation than chance has."""
    from PIL import Image

    slide = test_data / "rings_mosaics" / "P1_D5_9_13_tiles4-6_no-mpp.tif"
    assert call("run", slide, "-o", tmp_path, "--mpp", MOSAIC_MPP).exit_code == 0
    mask = labels_of(tmp_path / slide.stem)
    annotation = Image.open(slide.parent / "P1_D5_9_13_tiles4-6_mask.png")
    truth = np.asarray(annotation.resize(mask.shape[::-1], Image.Resampling.NEAREST))
    annotated = truth != 255
    gland, found = (truth == 1) & annotated, (mask == 6) & annotated
    assert (gland & found).sum() / (gland | found).sum() > 0.8
