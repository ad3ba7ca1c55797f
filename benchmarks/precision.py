"""Effect of lower precision on labels, agreement with annotations and time, on real tissue with the shipped bundle.

    python -m benchmarks.precision [--slide FILE ...]

float32 is the reference. The demo slide and the small region of CMU-1 are always there; slides of
one's own, which say their resolution, are added with --slide.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import Aim, Measurement, Table, benchmark
from tests.runs import labels_of
from wsi_magnet.config import Execution, Precision, Refine, RunConfig
from wsi_magnet.inference.optimize import resolve_precision
from wsi_magnet.segment.slide import segment_slide

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo" / "rings_P1_D5_9_13.tif"
CMU = ROOT / "tests" / "data" / "CMU-1-Small-Region.svs"
DEMO_MPP = 0.93
MOST_PERCENT = 0.1
PRECISIONS: tuple[Precision, ...] = ("fp32", "mixed", "bf16")
REFINED: tuple[Refine, ...] = ("all", 0.2)

Labels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Told:
    """Labels and seconds of a run."""

    labels: Labels
    seconds: float


def options(parser: argparse.ArgumentParser) -> None:
    """Options: slides and bundle."""
    parser.add_argument(
        "--slide", type=Path, action="append", default=[], help="another one; its metadata tell its mpp"
    )
    parser.add_argument("--bundle", type=Path, help="default: the one shipped")


def measure(arguments: argparse.Namespace) -> Measurement:
    """Measure every slide and precision, one row each."""
    slides = [(DEMO, DEMO_MPP), (CMU, None), *((slide, None) for slide in arguments.slide)]
    rows, worst = [], dict.fromkeys(PRECISIONS, 0.0)
    for (slide, mpp), refine in product(slides, REFINED):
        exact = run(slide, arguments.bundle, RunConfig(mpp=mpp, refine=refine, precision="fp32"))
        for precision in PRECISIONS:
            config = RunConfig(mpp=mpp, refine=refine, precision=precision)
            told = exact if precision == "fp32" else run(slide, arguments.bundle, config)
            tissue = exact.labels > 0
            share = 100 * float((told.labels != exact.labels)[tissue].mean())
            worst[precision] = max(worst[precision], share)
            miou, quicker = 100 * agreement(exact.labels, told.labels), exact.seconds / told.seconds
            what = [slide.stem, str(refine), precision]
            rows.append([*what, f"{share:.4f}", f"{miou:.3f}", f"{told.seconds:.1f}", f"{quicker:.2f}"])
    default = resolve_precision("auto", torch.device("cpu"))
    columns = (
        "slide",
        "refined",
        "precision",
        "labels that differ, %",
        "mIoU with float32, %",
        "seconds",
        "times as quick",
    )
    aims = [Aim(f"labels that the default here, {default}, changes at most, %", worst[default], MOST_PERCENT)]
    return Measurement(Table(columns, rows), aims)


def run(slide: Path, bundle: Path | None, config: RunConfig) -> Told:
    """Segment a slide on the CPU."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        summary = segment_slide(slide, out, bundle=bundle, config=config, execution=Execution(device="cpu"))
        return Told(labels_of(summary.folder), time.perf_counter() - started)


def agreement(exact: Labels, found: Labels) -> float:
    """Mean intersection over union of the labels that occur, tissue only."""
    tissue = exact > 0
    ious = []
    for value in np.unique(exact[tissue]):
        a, b = exact[tissue] == value, found[tissue] == value
        ious.append((a & b).sum() / (a | b).sum())
    return float(np.mean(ious))


if __name__ == "__main__":
    benchmark("precision", "Precision on a processor", measure, options)
