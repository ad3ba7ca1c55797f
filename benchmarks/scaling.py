"""Speed-up of two cores against one, and the cost of Dask for a tile.

    python -m benchmarks.scaling [--cells 36] [--tasks 1000 10000]

The program runs as a user runs it, on cores that `taskset` gives it: everything on the first, then everything on the
first two, with one worker process or one thread for each core. The speed-up of the cores themselves is measured
beside it: the networks alone in a process on one core, and in two processes on two cores at once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from shutil import which

from benchmarks.made import fpn_bundle
from benchmarks.record import Aim, Measurement, Table, benchmark
from benchmarks.simulated import Stand
from tests.slides_made import write_stained_slide
from wsi_magnet.config import DEFAULT_CELL_PX, Execution
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Size
from wsi_magnet.segment.executors import start_workers

MPPS = (2.0, 1.0, 0.5)
LEAST_SPEED_UP = 1.8
ALONE = """
import sys, time, torch
from wsi_magnet.nets.registry import build_network
torch.set_num_threads(1)
net, image = build_network("fpn", 5).eval(), torch.rand(1, 3, 576, 576)
with torch.inference_mode():
    net(image)
    print(flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    for _ in range(8):
        net(image)
print((time.perf_counter() - started) / 8)
"""
"""Program that prints the seconds of a forward pass, after a line on its standard input."""


@dataclass(frozen=True, slots=True)
class Run:
    """Time of one command, and of its scales."""

    whole_s: float
    scales_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options: amount of work."""
    parser.add_argument("--cells", type=int, default=36, help="cells of tissue at the finest scale")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1_000, 10_000], help="that cost nothing")


def measure_all(options: argparse.Namespace) -> Measurement:
    """Measure each way of running and each number of tasks, one row each."""
    if not which("taskset") or len(os.sched_getaffinity(0)) < 2:
        raise ConfigError("two cores and taskset are needed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows, aims = scaling(folder, options.cells)
        rows += [overhead(folder, way, count) for way in (None, 2) for count in options.tasks]
    return Measurement(
        Table(["what", "one core s", "two cores s", "speed-up", "ms a task"], rows),
        aims,
        [
            "ResNet50-FPN with the published refinement module in fp32 at 2, 1 and 0.5 µm/px, tiles of one cell. "
            "*Scales* are the times that the program prints: from the first tile to the last, pyramids included; "
            "*whole* is the command with its start, which is mostly Python's imports. The cores are those of "
            "`taskset`, and the command, the scheduler and the workers share them.",
            "*Networks alone*: seconds of a forward pass in one process, and in each of two at once.",
            "*Tasks that cost nothing* return a result such as a tile of four cells has, made beforehand, on two "
            "workers. The `RunSpec` that travels with each is that of a real plan.",
        ],
    )


# ---- two cores against one -----------------------------------------------------------------------------------------


def scaling(folder: Path, cells: int) -> tuple[list[list[str]], list[Aim]]:
    """Rows and aims of the speed-up."""
    bundle, slide = fpn_bundle(folder), made_slide(folder, cells)
    one, two = cores()
    alone = alone_s([one]), alone_s([one, two])
    rows = [["networks alone, seconds a patch", *_texts(alone[0], alone[1], 2 * alone[0] / alone[1])]]
    aims = []
    for name, workers in (("processes", True), ("threads", False)):
        runs = [
            run(slide, bundle, folder / f"{name}{n}", given, n if workers else None)
            for n, given in ((1, [one]), (2, [one, two]))
        ]
        for what in ("scales", "whole"):
            times = [run.scales_s if what == "scales" else run.whole_s for run in runs]
            rows.append([f"{name}, {what}", *_texts(times[0], times[1], times[0] / times[1])])
            aims.append(Aim(f"speed-up of two {name}, {what}", times[0] / times[1], LEAST_SPEED_UP, "at least"))
    return rows, aims


def _texts(one: float, two: float, speed_up: float) -> list[str]:
    return [f"{one:.2f}", f"{two:.2f}", f"{speed_up:.2f}", ""]


def cores() -> tuple[int, int]:
    """Two cores that this process may use."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    return first, second


def made_slide(folder: Path, cells: int) -> Path:
    """A slide nearly full of tissue, with that many cells at 0.5 µm."""
    side = ceil(sqrt(cells)) * DEFAULT_CELL_PX * 2
    return write_stained_slide(folder / "slide.tif", Size(side, side), tissue_share=0.9)


def run(slide: Path, bundle: Path, out: Path, given: Sequence[int], workers: int | None) -> Run:
    """Run the command on these cores."""
    program = [sys.executable, "-m", "wsi_magnet", "run", str(slide), "-o", str(out), "--bundle", str(bundle)]
    work = ["--tile", str(DEFAULT_CELL_PX), "--precision", "fp32", "--refine", "all", "--device", "cpu"]
    work += ["--workers", str(workers)] if workers else []
    started = time.perf_counter()
    pinned = ["taskset", "--cpu-list", ",".join(map(str, given))]
    done = subprocess.run([*pinned, *program, *work], check=True, capture_output=True, text=True)
    whole = time.perf_counter() - started
    return Run(whole, sum(float(s) for s in re.findall(r"finished in ([0-9.]+) s", done.stderr)))


def alone_s(given: Sequence[int]) -> float:
    """Longest seconds of a forward pass in processes on each of these cores at once."""
    children = [
        subprocess.Popen(
            ["taskset", "--cpu-list", str(core), sys.executable, "-c", ALONE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for core in given
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    return max(float(child.communicate()[0]) for child in children)


# ---- cost of a task ------------------------------------------------------------------------------------------------


def overhead(folder: Path, workers: int | None, count: int) -> list[str]:
    """Milliseconds a task through the executor, from the first to the last result."""
    stand = Stand.made(folder / f"stand-{workers}-{count}", gigapixels=0.5, tile_s=0.0)
    executor = start_workers(Execution(device="cpu", workers=workers))
    try:
        list(executor.map(stand.function, stand.tasks(8)))
        started = time.perf_counter()
        done = sum(1 for _ in executor.map(stand.function, stand.tasks(count)))
        seconds = time.perf_counter() - started
    finally:
        executor.close()
    assert done == count
    where = f"{workers} processes" if workers else "threads of one process"
    return [f"{count:,} tasks that cost nothing, {where}", "", f"{seconds:.2f}", "", f"{1000 * seconds / count:.2f}"]


if __name__ == "__main__":
    benchmark("scaling", "Two cores against one, and what a task costs", measure_all, add_options)
