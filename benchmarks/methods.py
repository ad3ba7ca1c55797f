"""Every method of a bundle on one slide: the time that `plan` gives and the time that `run` takes, and its memory.

    python -m benchmarks.methods SLIDE --bundle FILE [--mpp MICRONS] [--methods NAME ...]

Each run is a process of its own, with as many threads as it chooses.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Measured, measure
from benchmarks.record import Aim, Measurement, Table, benchmark
from wsi_magnet.methods.registry import method_names, refining_methods
from wsi_magnet.nets.spec import read_spec

PROGRAM = [sys.executable, "-m", "wsi_magnet"]

MOST_OFF = 2.0
"""Factor within which the time of a run is wanted to be known beforehand."""


@dataclass(frozen=True, slots=True)
class Row:
    """A method's run."""

    name: str
    least_s: float
    most_s: float
    """Time that `plan` gave."""
    measured: Measured

    @property
    def off(self) -> float:
        """Factor by which the run took longer than the longest, or shorter than the shortest time planned."""
        return max(1.0, self.measured.seconds / self.most_s, self.least_s / self.measured.seconds)

    def cells(self) -> list[str]:
        """Columns of the table."""
        planned = f"{self.least_s:.0f} to {self.most_s:.0f}"
        return [
            self.name,
            planned,
            f"{self.measured.seconds:.1f}",
            f"{self.off:.2f}",
            f"{self.measured.peak_bytes / 1e6:.0f}",
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options: slide, bundle, mpp and methods."""
    parser.add_argument("slide", type=Path)
    parser.add_argument("--bundle", default="default", help="with heads of methods; default: the shipped one")
    parser.add_argument("--mpp", type=float, help="as of `run`")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: all that the bundle can run")


def measure_all(options: argparse.Namespace) -> Measurement:
    """Plan and run every method."""
    names = options.methods or runnable(options.bundle)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured_row(name, options, Path(folder) / name) for name in names]
    worst = max(rows, key=lambda row: row.off)
    columns = ["method", "planned, s", "took, s", "times beyond the plan", "peak MB"]
    return Measurement(
        Table(columns, [row.cells() for row in rows]),
        aims=[Aim(f"times beyond the plan, {worst.name}", worst.off, MOST_OFF)],
        notes=[f"{options.slide.name}, bundle {read_spec(options.bundle)[0].name}; all tissue cells are refined."],
    )


def runnable(bundle: str) -> list[str]:
    """Methods that a bundle can run: those that need nothing but its networks, and those that it was trained for."""
    fitted = read_spec(bundle)[0].methods
    return [name for name in method_names() if name in fitted or name not in refining_methods()]


def measured_row(name: str, options: argparse.Namespace, out: Path) -> Row:
    """A method's plan, then its run."""
    own = ["--bundle", options.bundle] if options.bundle != "default" else []
    mpp = ["--mpp", f"{options.mpp:g}"] if options.mpp else []
    refine = [] if name == "MagNet-Fast" else ["--refine", "all"]
    common = [str(options.slide), *own, *mpp, *refine, "--method", name]
    planned = subprocess.run([*PROGRAM, "plan", *common, "--json"], check=True, capture_output=True, text=True)
    seconds = json.loads(planned.stdout)["time"]["seconds"]
    print(f"{name}: {seconds['least']:.0f} to {seconds['most']:.0f} s planned", file=sys.stderr)
    return Row(name, seconds["least"], seconds["most"], measure([*PROGRAM, "run", *common, "-o", str(out)]))


if __name__ == "__main__":
    benchmark("methods", "Methods on a slide", measure_all, add_options)
