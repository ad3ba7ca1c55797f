"""Export of a generated mask of 100,000 x 100,000 pixels with 50,000 regions: memory, and time beside that of reading.

    python -m benchmarks.export [--side 100000] [--regions 50000] [--simplify UM ...] [--result FOLDER]
    python -m benchmarks.export --dense 50000 2000 --simplify 0

Regions are blobs of 20 to 200 pixels across in four classes, a third of them with holes. With --dense WIDTH HEIGHT four
classes fill the mask without gaps, in domains of some 80 pixels whose outlines turn everywhere: the worst case for
memory, which then follows the width. The program runs as a user
runs it; reading is every chunk that was ever written, once, in this process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from benchmarks.measure import measure
from benchmarks.record import Measurement, Table, benchmark
from tests.export.results import CLASSES, Made, make_result, make_sparse_result
from wsi_magnet.results.reader import Result

CELL_PX = 400
"""Side of the area of one blob, in which it touches no other."""

DENSE_PX = 2000
"""Period of a mask without gaps, in pixels."""

COLUMNS = "simplified by µm", "objects", "seconds", "times reading", "peak MB", "file MB"

Labels = npt.NDArray[np.uint8]


def main() -> None:
    """Measure every export, one row each."""
    benchmark("export", "Export of regions", measure_all, add_options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Number of regions, and the tolerance of their outlines."""
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--regions", type=int, default=50_000)
    parser.add_argument(
        "--simplify", type=float, nargs="*", default=[0.0, 1.0], help="microns; the mask has 0.5 a pixel"
    )
    parser.add_argument("--dense", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="a mask without gaps instead")
    parser.add_argument("--result", type=Path, help="a result folder to export instead")


def measure_all(options: argparse.Namespace) -> Measurement:
    """Measure each simplification once."""
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "slide"
        if options.dense:
            folder = generate_dense(made, *options.dense)
        else:
            folder = options.result or generate(made, options.side, options.regions)
        source = Result(folder)
        first = read_seconds(source)
        targets = {um: Path(temporary) / f"{um:g}.geojson" for um in options.simplify}
        rows = [row(folder, target, um, read_seconds(source)) for um, target in targets.items()]
    reading = f"Reading every chunk of it that was ever written takes {first:.1f} s."
    return Measurement(Table(COLUMNS, rows), notes=[f"A mask of {source.geometry.size} pixels. {reading}"])


def row(folder: Path, target: Path, um: float, reading_s: float) -> list[str]:
    """Measure one export as a process."""
    export = ["export", str(folder), "--to", "geojson", "-o", str(target), "--split", "0", "--simplify", str(um)]
    measured = measure([sys.executable, "-m", "wsi_magnet", *export])
    with target.open("rb") as file:
        objects = sum(line.startswith(b'{"type":"Feature"') for line in file)
    return [
        f"{um:g}",
        f"{objects}",
        f"{measured.seconds:.1f}",
        f"{measured.seconds / reading_s:.1f}",
        f"{measured.peak_bytes / 1e6:.0f}",
        f"{target.stat().st_size / 1e6:.1f}",
    ]


def read_seconds(source: Result) -> float:
    """Read every stored chunk."""
    begun = time.perf_counter()
    for box in source.blocks(source.level):
        if source.mask_image.stored(source.level, box):
            source.mask_image.read(source.level, box)
    return time.perf_counter() - begun


def generate(folder: Path, side: int, regions: int) -> Path:
    """Write a result with that many regions, evenly spread over a mask."""
    per_side = int(np.ceil(np.sqrt(regions)))
    pitch = side // per_side
    if pitch < CELL_PX:
        raise SystemExit(f"{regions} regions need a side of {per_side * CELL_PX} or more")
    make_sparse_result(folder, side, _rows(side, pitch, regions))
    return folder


def generate_dense(folder: Path, width: int, height: int) -> Path:
    """Write a result in which each pixel is of the class whose smoothed noise is largest there."""
    rng = np.random.default_rng(0)
    fields = [ndimage.gaussian_filter(rng.normal(size=(DENSE_PX, DENSE_PX)), 20, mode="wrap") for _ in CLASSES]
    rough = [one / one.std() + rng.normal(0, 0.02, one.shape) for one in fields]
    values = np.array([one.value for one in CLASSES], np.uint8)
    period = values[np.argmax(rough, axis=0)]
    mask = np.tile(period, (-(-height // DENSE_PX), -(-width // DENSE_PX)))[:height, :width]
    make_result(folder, np.ascontiguousarray(mask), Made(mpp=0.5))
    return folder


def _rows(side: int, pitch: int, regions: int) -> Iterator[tuple[int, int, Labels]]:
    """(x, y, labels) of each blob."""
    blobs = [_blob(np.random.default_rng(seed)) for seed in range(40)]
    for number in range(regions):
        row, column = divmod(number, side // pitch)
        rng = np.random.default_rng(number)
        blob = blobs[rng.integers(len(blobs))]
        x, y = (int(place * pitch + rng.integers(pitch - CELL_PX + 1)) for place in (column, row))
        yield x, y, blob * np.uint8(CLASSES[rng.integers(len(CLASSES))].value)


def _blob(rng: np.random.Generator) -> Labels:
    """Labels of a blob: 1 inside an uneven outline; every third blob has holes."""
    y, x = np.mgrid[:CELL_PX, :CELL_PX] - CELL_PX / 2
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    waves = sum(rng.normal(0, 0.3 / k) * np.sin(k * angle + rng.uniform(0, 6)) for k in (2, 3, 5, 9, 17, 31))
    outer = rng.uniform(10, 100) * np.clip(1 + waves, 0.4, 1.9)
    inside = radius < outer
    if rng.random() < 1 / 3:
        inside &= radius > outer / 3
    return np.asarray(inside, np.uint8)


if __name__ == "__main__":
    main()
