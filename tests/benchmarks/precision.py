"""What lower precision changes: labels, agreement with annotations and time, on real tissue with the shipped bundle.

    python -m tests.benchmarks.precision [--slide FILE --mpp UM ...]

float32 is what the others are held against. The demo slide is always there; slides of one's own are added with --slide.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.record import Measurement, Table, benchmark
from tests.runs import labels_of
from wsi_magnet.config import Execution, Precision, RunConfig
from wsi_magnet.segmentation import segment_slide

DEMO = Path(__file__).resolve().parents[2] / "demo" / "rings_P1_D5_9_13.tif"
DEMO_MPP = 0.93
MOST_PERCENT = 0.1
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

Labels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Told:
    """A run's labels and how long it took."""

    labels: Labels
    seconds: float


def options(parser: argparse.ArgumentParser) -> None:
    """Which slides."""
    parser.add_argument(
        "--slide", type=Path, action="append", default=[], help="another one; its metadata tell its mpp"
    )
    parser.add_argument("--bundle", type=Path, help="default: the one shipped")


def measure(arguments: argparse.Namespace) -> Measurement:
    """A row a slide and precision."""
    slides = [(DEMO, DEMO_MPP), *((slide, None) for slide in arguments.slide)]
    rows, worst = [], 0.0
    for slide, mpp in slides:
        exact = run(slide, mpp, arguments.bundle, "fp32")
        for precision in PRECISIONS:
            told = exact if precision == "fp32" else run(slide, mpp, arguments.bundle, precision)
            tissue = exact.labels > 0
            share = 100 * float((told.labels != exact.labels)[tissue].mean())
            worst = max(worst, share)
            rows.append(
                [
                    slide.stem,
                    precision,
                    f"{share:.4f}",
                    f"{100 * agreement(exact.labels, told.labels):.3f}",
                    f"{told.seconds:.1f}",
                    f"{exact.seconds / told.seconds:.2f}",
                ]
            )
    columns = ("slide", "precision", "labels that differ, %", "mIoU with float32, %", "seconds", "times as quick")
    note = (
        f"The default may change at most {MOST_PERCENT:g} % of the labels; the most that differ here are {worst:.4f} %."
    )
    return Measurement(Table(columns, rows), notes=[note])


def run(slide: Path, mpp: float | None, bundle: Path | None, precision: Precision) -> Told:
    """Everything refined, on the processor."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        config = RunConfig(mpp=mpp, precision=precision)
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
