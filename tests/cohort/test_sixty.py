"""A cohort of sixty slides, ten of them bad in ten ways, through the command line and two worker processes."""

from __future__ import annotations

import csv
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Call
from tests.runs import free_spec, labels_of, write_bundle
from tests.slides_made import stained, write_pyramid
from wsi_magnet.cohort.state import States
from wsi_magnet.config import RunConfig
from wsi_magnet.geometry import Size
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.segment.slide import segment_slide

KINDS = 4
"""Different generated slides; the others are copies of them."""


def small(path: Path, seed: int = 0, mpp: float | None = 0.5) -> Path:
    """One cell at each of two scales."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_pyramid(path, stained(Size(400 + 20 * seed, 380), seed), mpp=mpp)


def corrupt_tags(path: Path) -> None:
    """A TIFF whose directory says nonsense."""
    data = bytearray(small(path).read_bytes())
    at = int.from_bytes(data[4:8], "little")
    data[at + 2 : at + 120] = b"\xff" * 118
    path.write_bytes(data)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("slide.svs", "not here")


def cut(path: Path, real: Path) -> None:
    """The first half: its pixels stop somewhere, and what describes them is gone."""
    data = real.read_bytes()
    path.write_bytes(data[: len(data) // 2])


BAD: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "absurd": (lambda path, real: small(path, mpp=900.0), "no usable mpp"),
    "corrupt": (lambda path, real: corrupt_tags(path), "cannot be opened"),
    "cut": (cut, "cannot be opened"),
    "dangling": (lambda path, real: path.symlink_to("nowhere.svs"), "no such file"),
    "directory": (lambda path, real: path.mkdir(), "is a folder"),
    "empty": (lambda path, real: path.touch(), "cannot be opened"),
    "nompp": (lambda path, real: small(path, mpp=None), "a CSV list with the columns slide and mpp"),
    "pipe": (lambda path, real: os.mkfifo(path), "no regular file"),
    "text": (lambda path, real: path.write_text("no slide"), "cannot be opened"),
    "zip": (lambda path, real: zipped(path), "cannot be opened"),
}
"""By name: how each is made, and what is said of it."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scales = {"mpps": (1.0, 0.5), "refiner_of": (0,), "select_above": (0.05,), "refine_above": (0.0,)}
    folder = tmp_path_factory.mktemp("bundle")
    return write_bundle(folder / "free.safetensors", free_spec(**scales, temperature=(1.0, 1.0)))


def make_cohort(folder: Path, real: Path, demo: Path) -> dict[str, Path]:
    """Sixty slides; returns by the name of each good one's result a slide of the same pixels."""
    same = {}
    for kind in range(KINDS):
        first = small(folder / "p0" / f"case{kind}.tif", kind)
        same[f"p0-case{kind}"] = first
        for patient in range(1, 11):
            copy = folder / f"p{patient}" / f"case{kind}.tif"
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(first, copy)
            same[f"p{patient}-case{kind}"] = first
    write_pyramid(folder / "dot.tif", np.full((1, 1, 3), 120, np.uint8), mpp=0.5)
    shutil.copy(real, folder / "p1" / "real.svs")
    shutil.copy(real, folder / "p2" / "REAL.svs")
    for name in ("mosaic", "other"):
        shutil.copy(demo, folder / f"{name}.tif")
    (folder / "resolutions.csv").write_text("slide,mpp,who\nmosaic.tif,0.93,x\nother.tif,0.93,y\n")
    small(folder / "unique.svs", 1)
    same |= {"dot": folder / "dot.tif", "p1-real": real, "p2-REAL": real, "unique": folder / "unique.svs"}
    same |= {"mosaic": demo, "other": demo}
    (folder / "bad").mkdir()
    for name, (make, _) in BAD.items():
        make(folder / "bad" / f"{name}.svs", real)
    return same


@pytest.mark.slow
def test_sixty(call: Call, bundle: Path, tmp_path: Path, small_svs: Path, demo_slide: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    same = make_cohort(slides, small_svs, demo_slide)
    assert (len(same), len(BAD)) == (50, 10)
    arguments = ["batch", slides / "resolutions.csv", slides, "-o", out, "--bundle", bundle]
    first = call(*arguments, "--workers", "2", "--in-flight", "4")
    assert first.exit_code == 1, first.stderr
    assert "60: 50 finished, 10 failed" in first.stdout
    with (out / "summary.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows.keys() == same.keys() | BAD.keys()
    for name, (_, reason) in BAD.items():
        assert rows[name]["state"] == "failed"
        assert reason in rows[name]["reason"], (name, rows[name]["reason"])
        assert f"batch {slides}/bad/{name}.svs -o {out} " in rows[name]["retry"]
        assert not (out / name / "mask.ome.zarr").exists()
    check_masks(same, out, bundle, tmp_path / "alone")

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/run.json")}
    again = call(*arguments)
    assert again.exit_code == 1
    assert again.stderr.startswith("60 slides, ")
    assert ", 0 to do" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/run.json")} == before

    small(slides / "bad" / "text.svs", 2)
    mended = call("batch", slides / "bad" / "text.svs", "-o", out, "--bundle", bundle, "--retry-failed")
    assert mended.exit_code == 0, mended.stderr
    states = States(out).read()
    assert sum(state.state == "finished" for state in states.values()) == 51
    assert call("status", out).exit_code == 1


def check_masks(same: dict[str, Path], out: Path, bundle: Path, alone: Path) -> None:
    """Every mask is that of a run of its own."""
    masks: dict[Path, np.ndarray] = {}
    for name, slide in same.items():
        if slide not in masks:
            config = RunConfig(mpp=0.93 if name == "mosaic" else None)
            run = segment_slide(slide, alone, name=name, bundle=bundle, config=config, execution=SerialExecutor())
            masks[slide] = labels_of(run.folder)
            assert name == "dot" or masks[slide].any(), "there is something to compare"
        assert np.array_equal(labels_of(out / name), masks[slide]), name
