"""Peak memory of a run at 0.1, 1, 10 and 100 gigapixels: it must not depend on the slide's size.

    python -m benchmarks.memory [--bundle FILE] [--gigapixels 0.1 1 10 100]

The slides are generated (H&E-like, 0.25 µm/px, the larger the sparser in tissue); the program runs as a user runs it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.made import small_bundle
from benchmarks.measure import Measured, measure
from benchmarks.record import Aim, Measurement, Table, benchmark
from tests.slides_made import write_gigapixel_slide

MPP = 0.25
TISSUE_MM2 = 5.6
"""Tissue of each slide, so that they differ in size and not in work: 0.09 gigapixels at 0.25 µm/px."""


def main() -> None:
    """Measure every slide, one row each, and the spread."""
    benchmark("memory", "Memory and the size of the slide", measure_all, add_options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Slides and options."""
    parser.add_argument("--gigapixels", type=float, nargs="+", default=[0.1, 1, 10, 100])
    parser.add_argument("--bundle", help="default: the shipped one's networks at 2, 1 and 0.5 µm, with fresh weights")


def measure_all(options: argparse.Namespace) -> Measurement:
    """Measure each slide once; the aim is the largest peak divided by the smallest."""
    rows, peaks = [], []
    for gigapixels in options.gigapixels:
        share = min(0.9, TISSUE_MM2 / (gigapixels * 1e9 * MPP**2 / 1e6))
        measured = run(gigapixels, share, options.bundle)
        peaks.append(measured.peak_bytes)
        figures = f"{share:.2%}", f"{measured.seconds:.1f}", f"{measured.peak_bytes / 1e6:.0f}"
        rows.append([f"{gigapixels:g}", *figures])
    return Measurement(
        Table(["gigapixels", "tissue", "seconds", "peak MB"], rows),
        [Aim("largest peak by smallest", max(peaks) / min(peaks), 1.10)],
        [
            f"Each slide has {TISSUE_MM2} mm² of tissue, so that they differ in size and not in work. `wsi-magnet run` "
            "on CPUs in threads of one process; the peak is the whole process's, its libraries included. The networks "
            "are those of the shipped bundle at 2, 1 and 0.5 µm: at its own scales the smallest slide has too few "
            "tiles for two threads to meet at the largest of them."
        ],
    )


def run(gigapixels: float, share: float, bundle: str | None) -> Measured:
    """Generate and segment one slide, and delete it with its result."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle or str(small_bundle(Path(folder)))
        slide = Path(folder) / f"{gigapixels:g}-gigapixels.tif"
        write_gigapixel_slide(slide, gigapixels=gigapixels, tissue_share=share, mpp=MPP)
        command = [sys.executable, "-m", "wsi_magnet", "run", str(slide), "-o", folder, "--device", "cpu"]
        return measure([*command, "--refine", "all", "--bundle", bundle])


if __name__ == "__main__":
    main()
