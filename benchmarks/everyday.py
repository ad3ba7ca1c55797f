"""Time and memory of everyday commands: start-up, a finished run typed again, a plan, a pyramid, an export.

    python -m benchmarks.everyday

Each command runs in its own process, as a user starts it, three times, and those of a tenth of a second ten times;
the shortest time and the largest peak are reported.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

from benchmarks.measure import Measured, measure
from benchmarks.record import Measurement, Table, benchmark
from tests.slides_made import write_gigapixel_slide
from wsi_magnet.config import CHUNK_PX, RunConfig
from wsi_magnet.geometry import Box, Size, halved_until
from wsi_magnet.results.pyramid import Pyramid, PyramidSpec, halve_tile

DEMO = Path(__file__).resolve().parents[1] / "demo" / "rings_P1_D5_9_13.tif"
PYTHON, PROGRAM = [sys.executable], [sys.executable, "-m", "wsi_magnet"]
TIMES, START_TIMES = 3, 10

PLANNED_GIGAPIXELS, PLANNED_TISSUE = 100, 0.3
MASK_PX = 16_384
"""Side of the mask whose pyramid is built; the work takes seconds, the start of Python tenths."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured command, and the command that its time is compared with."""

    what: str
    measured: Measured
    beside: str = ""
    ratio: float | None = None

    def cells(self) -> list[str]:
        """Columns of the table."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        figures = f"{self.measured.seconds:.3f}", f"{self.measured.peak_bytes / 1e6:.0f}"
        return [self.what, *figures, self.beside, ratio]


def main() -> None:
    """Measure every command, one row each."""
    benchmark("everyday", "Everyday use", measure_all)


def measure_all(options: argparse.Namespace) -> Measurement:
    """All measurements, in a temporary folder."""
    del options
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run([*PROGRAM, *demo_run(folder)], check=True, capture_output=True)
        started = start_up()
        built, speed = pyramid(folder)
        rows = [*started, resumed(folder), exported(folder), planned(folder), *built]
    return Measurement(
        Table(["what", "seconds", "peak MB", "beside", "times as long"], [row.cells() for row in rows]),
        notes=[
            f"Each is a process of its own, {TIMES} times, and start-up {START_TIMES} times: the shortest time, the "
            f"largest peak. The planned slide is generated, {PLANNED_TISSUE:.0%} of it tissue.",
            f"A pyramid is built at {speed:.0f} megapixels of the mask a second by one thread, every object made to "
            "last (fsync). Copying reads and writes as many pixels and takes every second one as it is. Python's start "
            "and the imports, which are measured apart, are left out of both.",
        ],
    )


def start_up() -> list[Row]:
    """Start of Python alone, of click alone, and of this program; alternating, so that load affects all alike."""
    click = 'python -c "import click"'
    commands = {
        "python -c pass": [*PYTHON, "-c", "pass"],
        click: [*PYTHON, "-c", "import click"],
        **{f"wsi-magnet {told}": [*PROGRAM, *told.split()] for told in ("--help", "--version", "run --help")},
    }
    runs = [{name: measure(command) for name, command in commands.items()} for _ in range(START_TIMES)]
    measured = {name: least([one[name] for one in runs]) for name in commands}
    return [
        Row(f"`{name}`", one, "import click", one.seconds / measured[click].seconds)
        if name.startswith("wsi-magnet")
        else Row(f"`{name}`", one)
        for name, one in measured.items()
    ]


def demo_run(folder: Path) -> list[str]:
    """Arguments that segment the demo slide."""
    return ["run", str(DEMO), "--mpp", "0.93", "-o", str(folder)]


def resumed(folder: Path) -> Row:
    """The finished run, typed again."""
    return Row("`wsi-magnet run`, finished before", best([*PROGRAM, *demo_run(folder)]))


def exported(folder: Path) -> Row:
    """The demo's regions."""
    target = folder / "demo.geojson"
    command = [*PROGRAM, "export", str(folder / DEMO.stem), "--to", "geojson", "-o", str(target), "--overwrite"]
    return Row("`wsi-magnet export --to geojson`, demo", best(command))


def planned(folder: Path) -> Row:
    """A plan of a slide that is larger than any scanner's."""
    slide = folder / "planned.tif"
    write_gigapixel_slide(slide, gigapixels=PLANNED_GIGAPIXELS, tissue_share=PLANNED_TISSUE)
    return Row(f"`wsi-magnet plan`, {PLANNED_GIGAPIXELS} gigapixels", best([*PROGRAM, "plan", str(slide), "--no-time"]))


def pyramid(folder: Path) -> tuple[list[Row], float]:
    """Times of building a pyramid and of copying as much, without Python's start; and megapixels a second."""
    made = mask(folder)
    fill(made, np.asarray(zarr.open_array(folder / DEMO.stem / "mask.ome.zarr" / "0", mode="r")[...]))
    started, copied, built = (
        best([*PYTHON, "-c", f"from benchmarks import everyday as e; e.coarsen({str(folder)!r}, {how!r})"])
        for how in ("nothing", "copy", "build")
    )
    copying, building = (one.seconds - started.seconds for one in (copied, built))
    name = f"pyramid of {MASK_PX} x {MASK_PX} labels"
    rows = [
        Row(name, Measured(building, built.peak_bytes), "copying", building / copying),
        Row("copying as many", Measured(copying, copied.peak_bytes)),
        Row("start and imports of both", started),
    ]
    return rows, made.spec.sizes[0].pixels / 1e6 / building


def fill(made: Pyramid, labels: npt.NDArray[np.uint8]) -> None:
    """Write the finest level: a smaller mask, repeated."""
    made.create()
    for box in Box.of(made.spec.sizes[0]).squares(made.spec.tile_px):
        rows, columns = np.arange(box.y0, box.y1), np.arange(box.x0, box.x1)
        made.write(0, box, labels[np.ix_(rows % labels.shape[0], columns % labels.shape[1])])


def coarsen(folder: str, how: str) -> None:
    """Fill the mask's coarser levels tile by tile, as a run does. how: "build", "copy" or "nothing"."""
    made = mask(Path(folder))
    levels = range(1, len(made.spec.sizes)) if how != "nothing" else ()
    for level in levels:
        for box in Box.of(made.spec.sizes[level]).squares(made.spec.tile_px):
            if how == "build":
                halve_tile(made, level, box, labels=True)
            else:
                fine = Box(box.x0 * 2, box.y0 * 2, box.x1 * 2, box.y1 * 2)
                made.write(level, box, made.read(level - 1, fine)[::2, ::2])


def mask(folder: Path) -> Pyramid:
    """Description of a large mask, whose side halves evenly down to a chunk."""
    sizes = halved_until([Size(MASK_PX, MASK_PX)], CHUNK_PX)
    return Pyramid(PyramidSpec(folder / "large.ome.zarr", sizes, None, "0.4", RunConfig().tile_px))


def best(command: Sequence[str]) -> Measured:
    """Median of several runs."""
    return least([measure(command) for _ in range(TIMES)])


def least(measured: Sequence[Measured]) -> Measured:
    """The shortest time and the largest peak."""
    return Measured(min(one.seconds for one in measured), max(one.peak_bytes for one in measured))


if __name__ == "__main__":
    main()
