"""Codecs on the arrays of a real result: size and speed, on which the choice of the store's compression rests.

    python -m benchmarks.compression [RESULT]

RESULT comes from a run with --keep probabilities; without it, the demo slide is segmented first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import Blosc

from benchmarks.record import Measurement, Table, benchmark
from wsi_magnet.config import CHUNK_PX

DEMO = Path(__file__).resolve().parents[1] / "demo" / "rings_P1_D5_9_13.tif"

CODECS = {
    f"blosc {name} {level} {shuffle}": Blosc(name, level, {"none": Blosc.NOSHUFFLE, "bit": Blosc.BITSHUFFLE}[shuffle])
    for name, level in [("lz4", 5), ("zstd", 1), ("zstd", 3), ("zstd", 5), ("zstd", 9), ("zlib", 6)]
    for shuffle in ("none", "bit")
}
"""Only Blosc: QuPath's reader does not open the other codecs of Zarr v2."""

Pixels = npt.NDArray[np.uint8]


def main() -> None:
    """Measure every codec and product, one row each."""
    benchmark("compression", "Compression of the store", measure_all, add_options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    parser.add_argument("result", type=Path, nargs="?", help="default: the demo slide is segmented")


def measure_all(options: argparse.Namespace) -> Measurement:
    """Measure every codec on the mask and on the probabilities."""
    numcodecs.blosc.use_threads = False
    with tempfile.TemporaryDirectory() as folder:
        result = options.result or segment_demo(Path(folder))
        arrays = {name: chunks(finest(result, name)) for name in ("mask", "probabilities")}
    rows = [[name, codec, *row(CODECS[codec], parts)] for name, parts in arrays.items() for codec in CODECS]
    columns = ["product", "codec", "share of raw bytes", "write MB/s", "read MB/s"]
    return Measurement(Table(columns, rows), notes=["One thread, chunks as the store cuts them, in memory."])


def segment_demo(folder: Path) -> Path:
    """A result of the demo slide with its probabilities."""
    run = ["run", str(DEMO), "--mpp", "0.93", "-o", str(folder), "--keep", "probabilities"]
    subprocess.run([sys.executable, "-m", "wsi_magnet", *run], check=True, capture_output=True)
    return folder / DEMO.stem


def finest(result: Path, product: str) -> Pixels:
    """All pixels of a product."""
    return np.asarray(zarr.open_array(result / f"{product}.ome.zarr" / "0", mode="r")[...])


def chunks(array: Pixels) -> list[Pixels]:
    """The array's chunks as the store cuts them, without those that are all zero."""
    height, width = array.shape[-2:]
    cut = [
        np.ascontiguousarray(array[..., y : y + CHUNK_PX, x : x + CHUNK_PX])
        for y in range(0, height, CHUNK_PX)
        for x in range(0, width, CHUNK_PX)
    ]
    return [c for c in cut if c.any()]


def row(codec: Blosc, parts: Sequence[Pixels]) -> list[str]:
    """Columns of one row: size and speeds."""
    raw = sum(part.nbytes for part in parts)
    started = time.perf_counter()
    packed = [codec.encode(part) for part in parts]
    middle = time.perf_counter()
    for one in packed:
        codec.decode(one)
    ended = time.perf_counter()
    share = sum(map(len, packed)) / raw
    return [f"{share:.2%}", f"{raw / 1e6 / (middle - started):.0f}", f"{raw / 1e6 / (ended - middle):.0f}"]


if __name__ == "__main__":
    main()
