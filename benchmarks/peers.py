"""The same network on the same slide in other programs: seconds, peak memory, size of the result, equal labels.

    python -m benchmarks.peers [--megapixels 25 100] [--tiatoolbox PYTHON] [--monai PYTHON] [--lazyslide PYTHON]

The slide is generated, at 0.25 µm, and everybody computes all of it, on the CPU. The network costs next to nothing, its
label is the strongest colour; so what is measured is reading, putting together and writing round a network. Each
program runs once on a small slide, so that none waits for its own files to come from the disk, then once a size.

PYTHON is that of an environment with the program; a program without one is left out. These worked, on Python 3.12:

    python3.12 -m venv tia && tia/bin/pip install tiatoolbox==2.1.3
    python3.12 -m venv monai && monai/bin/pip install torch==2.13.0 monai==1.6.1 zarr openslide-python openslide-bin
    python3.12 -m venv lazy && lazy/bin/pip install torch==2.14.1 torchvision==0.29.1 lazyslide==0.13.0

TIAToolbox 2.1.3 refuses torch 2.13 and newer; by itself it brings torch 2.12 and torchvision 0.27.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

from benchmarks.measure import Measured, measure
from benchmarks.record import Aim, Measurement, Table, benchmark
from tests.runs import free_spec, labels_of, write_bundle
from tests.slides_made import write_stained_slide
from wsi_magnet.geometry import Size

PROGRAMS = Path(__file__).with_name("peer_programs.py")
TISSUE_SHARE = 0.9
WARM_UP_PX = 1024
STRIP_PX = 512
TIMES_LESS_MEMORY, TIMES_LESS_TIME = 4, 3
"""Aims, relative to TIAToolbox."""

COLUMNS = ("megapixels", "program", "seconds", "peak MB", "result MB", "equal labels")
NOTES = (
    "Every program reads level 0 as it is stored, in patches of 512 pixels at a stride of 512, and computes the whole "
    "slide, tissue or not; the label is the strongest of the three normalised colours. wsi-magnet reads more: a halo "
    "of 128 pixels round each cell of 512, 2.25 times the pixels. It also writes a pyramid, the others one level.",
    "Seconds and peak memory are of the whole process with its imports, which were in the system's cache. Of a program "
    "with loader processes, memory is that of its largest process, not of all together. The result is what lies in its "
    "folder at the end; the slide repeats a few tiles, so all of it compresses better than a real mask. Equal labels: "
    "share of the stained pixels with the label that they have with the whole slide in one array, whose result also "
    "says which pixels these are.",
    "TIAToolbox: SemanticSegmentor to Zarr, batches of 8, no tissue mask, memory threshold as it comes; without and "
    "with 2 loader processes, and each aim is held against the better of the two. MONAI: WSISlidingWindowSplitter and "
    "PatchInferer, batches of 8, logits merged in memory or in Zarr with a chunk a patch; labels are made of them in "
    "strips. LazySlide: tile_tissues, then virtual_stain with a map of three markers, batches of 8, 2 loader "
    "processes, labels in strips; its seg.semantic gives polygons and no mask, and these labels differ from pixel to "
    "pixel.",
    "Environments, on Python 3.12: `pip install tiatoolbox==2.1.3` (brings torch 2.12, torchvision 0.27); `pip install "
    "torch==2.13.0 monai==1.6.1 zarr openslide-python openslide-bin`; `pip install torch==2.14.1 torchvision==0.29.1 "
    "lazyslide==0.13.0`.",
)

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program that computes labels of a slide."""

    title: str
    command: Sequence[str] | None
    """Command without its last words, the slide and an empty folder for the result; None if not installed."""
    labels: Callable[[Path], Labels]
    """Reads the labels in that folder, uint8 (H, W), 0 to 2."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Time, memory and labels of a program on a slide."""

    measured: Measured
    result_bytes: int
    equal_share: float


@dataclass(frozen=True, slots=True)
class Reference:
    """Reference of the comparison."""

    labels: Labels
    tissue: npt.NDArray[np.bool_]

    def equal_share(self, labels: Labels) -> float:
        """Share of equal labels on tissue; 0 for labels of another size."""
        if labels.shape != self.labels.shape:
            return 0.0
        equal = total = 0
        for start in range(0, len(labels), STRIP_PX):
            rows = slice(start, start + STRIP_PX)
            tissue = self.tissue[rows]
            total += int(tissue.sum())
            equal += int((tissue & (labels[rows] == self.labels[rows])).sum())
        return equal / total


def main() -> None:
    """Print one row for each size and program."""
    benchmark("peers", "Other programs, the same network on the same slide", run, add_options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options: sizes and the Pythons of the programs."""
    parser.add_argument("--megapixels", type=float, nargs="+", default=[25, 100])
    for package in ("tiatoolbox", "monai", "lazyslide"):
        parser.add_argument(f"--{package}", metavar="PYTHON", help="of an environment in which it is installed")


def run(options: argparse.Namespace) -> Measurement:
    """Measure all sizes and programs."""
    rows: list[Sequence[str]] = []
    met: list[Aim] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        everybody = [reference(), ours(folder), *peers(options)]
        _outcomes(everybody, folder, WARM_UP_PX)
        for megapixels in sorted(options.megapixels):
            outcomes = _outcomes(everybody, folder, round((megapixels * 1e6) ** 0.5))
            for one in everybody:
                cells = _cells(outcomes.get(one.title), "failed" if one.command else "not installed")
                rows.append((f"{megapixels:g}", one.title, *cells))
            met = aims(outcomes, f"{megapixels:g} megapixels")
    return Measurement(Table(COLUMNS, rows), met, NOTES)


def aims(outcomes: Mapping[str, Outcome], size: str) -> list[Aim]:
    """Aims against TIAToolbox, if it ran."""
    theirs = [outcome.measured for title, outcome in outcomes.items() if title.startswith(TIATOOLBOX)]
    if OURS not in outcomes or not theirs:
        return []
    measured = outcomes[OURS].measured
    memory = min(one.peak_bytes for one in theirs) / measured.peak_bytes
    seconds = min(one.seconds for one in theirs) / measured.seconds
    return [
        Aim(f"peak memory of TIAToolbox by ours, {size}", memory, TIMES_LESS_MEMORY, "at least"),
        Aim(f"seconds of TIAToolbox by ours, {size}", seconds, TIMES_LESS_TIME, "at least"),
    ]


# ---- the programs --------------------------------------------------------------------------------------------------

OURS, REFERENCE, TIATOOLBOX = "wsi-magnet", "whole slide in one array", "TIAToolbox"


def reference() -> Contestant:
    """The reference, which comes first."""
    return Contestant(REFERENCE, [sys.executable, "-P", str(PROGRAMS), "dense"], _saved)


def ours(folder: Path) -> Contestant:
    """wsi-magnet as a user runs it, with a bundle of one scale in the folder."""
    spec = free_spec(mpps=(0.25,), refiner_of=(), select_above=(), refine_above=(), temperature=(1.0,))
    bundle = write_bundle(folder / "free.safetensors", spec)
    options = ["--bundle", str(bundle), "--no-tissue", "--device", "cpu"]
    return Contestant(OURS, [sys.executable, "-m", "wsi_magnet", "run", *options, "-o"], _of_ours)


def peers(options: argparse.Namespace) -> list[Contestant]:
    """The other programs, with their versions if they are installed."""
    rows: Sequence[tuple[str, str, str, str, Callable[[Path], Labels]]] = (
        (TIATOOLBOX, "", "tiatoolbox", options.tiatoolbox, _of_tiatoolbox),
        (TIATOOLBOX, ", 2 loaders", "tiatoolbox-workers", options.tiatoolbox, _of_tiatoolbox),
        ("MONAI", ", merged in memory", "monai-memory", options.monai, _saved),
        ("MONAI", ", merged in Zarr", "monai-zarr", options.monai, _saved),
        ("LazySlide", "", "lazyslide", options.lazyslide, _saved),
    )
    return [
        Contestant(
            f"{name} {_version(python, name.lower())}{way}" if python else f"{name}{way}",
            [python, "-P", str(PROGRAMS), program] if python else None,
            labels,
        )
        for name, way, program, python, labels in rows
    ]


def _version(python: str, package: str) -> str:
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _saved(folder: Path) -> Labels:
    labels: Labels = np.load(folder / "labels.npy", mmap_mode="r")
    return labels


def _of_ours(folder: Path) -> Labels:
    (mask,) = folder.glob("*/mask.ome.zarr")
    return labels_of(mask.parent) - np.uint8(1)


def _of_tiatoolbox(folder: Path) -> Labels:
    (store,) = (folder / "result").glob("*.zarr")
    return np.asarray(zarr.open_array(store / "predictions", mode="r")[...], np.uint8)


# ---- one slide -----------------------------------------------------------------------------------------------------


def _outcomes(everybody: Sequence[Contestant], folder: Path, side_px: int) -> dict[str, Outcome]:
    """Measurements of the installed programs that did not fail, by title; the first row is the reference."""
    slide = write_stained_slide(folder / f"{side_px}.tif", Size(side_px, side_px), tissue_share=TISSUE_SHARE)
    results = [folder / f"{side_px}-{number}" for number in range(len(everybody))]
    outcomes = {}
    for one, result in zip(everybody, results, strict=True):
        result.mkdir()
        measured = _attempt(one, slide, result)
        if measured is not None:
            truth = Reference(_saved(results[0]), np.load(results[0] / "tissue.npy", mmap_mode="r"))
            size = sum(path.stat().st_size for path in result.rglob("*") if path.is_file())
            outcomes[one.title] = Outcome(measured, size, truth.equal_share(one.labels(result)))
        if result is not results[0]:
            shutil.rmtree(result)
    shutil.rmtree(results[0])
    return outcomes


def _attempt(one: Contestant, slide: Path, result: Path) -> Measured | None:
    """Measure one run; None for a program that is not installed or fails, with the reason on stderr."""
    if one.command is None:
        return None
    print(f"{one.title}, {slide.stem} x {slide.stem} pixels", file=sys.stderr, flush=True)
    places = [str(result), str(slide)] if one.title == OURS else [str(slide), str(result)]
    try:
        return measure([*one.command, *places])
    except subprocess.CalledProcessError as error:
        print(error.stderr.decode(errors="replace")[-2000:], file=sys.stderr, flush=True)
        return None


def _cells(outcome: Outcome | None, otherwise: str) -> Sequence[str]:
    if outcome is None:
        return (otherwise, "", "", "")
    return (
        f"{outcome.measured.seconds:.1f}",
        f"{outcome.measured.peak_bytes / 1e6:.0f}",
        f"{outcome.result_bytes / 1e6:.1f}",
        f"{outcome.equal_share:.4f}",
    )


if __name__ == "__main__":
    main()
