"""Codecs on the arrays of a real result: bytes and speed, by which the store's compression was chosen.

python -m tests.benchmarks.compression RESULT   (a run with --keep probabilities)
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numcodecs
import numpy as np
import zarr
from numcodecs import Blosc

from tests.benchmarks.measure import machine
from wsi_magnet.store import CHUNK_PX

CODECS = {
    f"blosc {name} {level} {shuffle}": Blosc(name, level, {"none": Blosc.NOSHUFFLE, "bit": Blosc.BITSHUFFLE}[shuffle])
    for name, level in [("lz4", 5), ("zstd", 1), ("zstd", 3), ("zstd", 5), ("zstd", 9), ("zlib", 6)]
    for shuffle in ("none", "bit")
}
"""Only Blosc: QuPath's reader does not open the other codecs of Zarr v2."""


def chunks(array: np.ndarray) -> list[np.ndarray]:
    """The array's chunks as the store cuts them, without those that are all zero."""
    height, width = array.shape[-2:]
    cut = [
        np.ascontiguousarray(array[..., y : y + CHUNK_PX, x : x + CHUNK_PX])
        for y in range(0, height, CHUNK_PX)
        for x in range(0, width, CHUNK_PX)
    ]
    return [c for c in cut if c.any()]


def main() -> None:
    """Print a row a codec and product."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    result: Path = parser.parse_args().result
    numcodecs.blosc.use_threads = False
    print(f"# {machine()}")
    print(f"{'product':14s} {'codec':20s} {'bytes/raw':>9s} {'write MB/s':>10s} {'read MB/s':>10s}")
    for product in ("mask", "probabilities"):
        parts = chunks(np.asarray(zarr.open_array(result / f"{product}.ome.zarr" / "0", mode="r")[...]))
        raw = sum(part.nbytes for part in parts)
        for name, codec in CODECS.items():
            started = time.perf_counter()
            packed = [codec.encode(part) for part in parts]
            middle = time.perf_counter()
            for one in packed:
                codec.decode(one)
            ended = time.perf_counter()
            share = sum(map(len, packed)) / raw
            speeds = raw / 1e6 / (middle - started), raw / 1e6 / (ended - middle)
            print(f"{product:14s} {name:20s} {share:9.4f} {speeds[0]:10.0f} {speeds[1]:10.0f}")


if __name__ == "__main__":
    main()
