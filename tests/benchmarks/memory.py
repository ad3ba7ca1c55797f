"""Peak memory of a run at 0.1, 1 and 10 gigapixels: it must not depend on the size of the slide.

    python -m tests.benchmarks.memory [--bundle FILE] [--gigapixels 0.1 1 10]

The slides are generated (H&E-like, 0.25 µm/px, the largest sparse in tissue); the program runs as a user runs it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.measure import Measured, machine, measure
from tests.slides_made import write_gigapixel_slide

TISSUE_MM2 = 5.6
"""Tissue of each slide, so that they differ in size and not in work: 0.09 gigapixels at 0.25 µm/px."""


def main() -> None:
    """Print a row a slide, and the spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigapixels", type=float, nargs="+", default=[0.1, 1, 10])
    parser.add_argument("--bundle", help="default: the one shipped")
    arguments = parser.parse_args()
    print(f"# {machine()}")
    print("gigapixels  tissue  seconds  peak MB")
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for gigapixels in arguments.gigapixels:
            share = min(0.9, TISSUE_MM2 / (gigapixels * 1e9 * 0.25**2 / 1e6))
            measured = run(Path(folder), gigapixels, share, arguments.bundle)
            peaks.append(measured.peak_bytes)
            print(
                f"{gigapixels:10g}  {share:6.3f}  {measured.seconds:7.1f}  {measured.peak_bytes / 1e6:7.0f}", flush=True
            )
    print(f"largest / smallest: {max(peaks) / min(peaks):.3f}")


def run(folder: Path, gigapixels: float, share: float, bundle: str | None) -> Measured:
    """One slide, made, run and deleted again."""
    slide = folder / f"{gigapixels:g}.tif"
    write_gigapixel_slide(slide, gigapixels=gigapixels, tissue_share=share)
    command = [sys.executable, "-m", "wsi_magnet", "run", str(slide), "-o", str(folder / "out"), "--device", "cpu"]
    try:
        return measure([*command, *(["--bundle", bundle] if bundle else [])])
    finally:
        slide.unlink()


if __name__ == "__main__":
    main()
