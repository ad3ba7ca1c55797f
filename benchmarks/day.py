"""GPUs, coordinating process and file system that a number of slides a day needs.

    python -m benchmarks.day [--slides 10000]

Arithmetic on the real plan of the slide whose run on a GPU is recorded (docs/performance/gpu.json), with what the
records of a GPU, of a crowd of workers and of compression say. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import RECORDS, Measurement, Table, benchmark
from benchmarks.simulated import Stand, coarser
from wsi_magnet.config import CHUNK_PX
from wsi_magnet.planning.plan import Plan

DAY_S = 86_400
GIGAPIXELS, TISSUE_SHARE = 10.0, 0.2
"""Slide of the recorded GPU run."""

TILES = (1024, 2048, 4096)
USE = 0.7
"""Shares of a GPU's and of a CPU's time to plan with: nodes are drained, slides differ, days have peaks."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Number of slides."""
    parser.add_argument("--slides", type=int, default=10_000)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Figures of other benchmarks."""

    slide_s: float
    """Seconds of all scales of the slide on a GPU."""
    task_ms: float
    """Seconds of the client's CPU for a task."""
    mask_share: float
    """Bytes of a mask after compression."""

    @staticmethod
    def read() -> Recorded:
        """Raises FileNotFoundError where one has not been recorded."""
        gpu = {row[0]: row[1] for row in _record("gpu")["table"]["rows"]}
        crowd = " ".join(_record("crowd")["notes"])
        task = re.search(r"a task costs the client ([\d.]+) ms", crowd)
        masks = [row for row in _record("compression")["table"]["rows"] if row[:2] == ["mask", "blosc zstd 3 none"]]
        assert task
        return Recorded(float(gpu["of it scales"]), float(task[1]), float(masks[0][2].rstrip("%")) / 100)


def measure(options: argparse.Namespace) -> Measurement:
    """Compute one row for each quantity."""
    told, a_second = Recorded.read(), options.slides / DAY_S
    with tempfile.TemporaryDirectory() as temporary:
        plans = {t: _plan(Path(temporary) / str(t), t) for t in TILES}
    plan = plans[TILES[0]]
    gpus = told.slide_s * a_second
    rows = [
        ["GPUs as the recorded one, always busy", f"{told.slide_s:.1f} s", f"{gpus:.1f}"],
        [f"GPUs, of whose time {100 * USE:.0f} % are used", "", f"{gpus / USE:.0f}"],
    ]
    for tile_px, one in plans.items():
        tasks = _tasks(one)
        busy = 100 * tasks * a_second * told.task_ms / 1000
        rows.append([f"tasks, with --tile {tile_px}", f"{tasks}", f"{tasks * a_second:.0f} a second"])
        rows.append([f"client's processor for them, of one core, --tile {tile_px}", "", f"{busy:.0f} %"])
    cells = _cells(plan)
    mask_mb = cells * CHUNK_PX**2 * told.mask_share / 1e6
    rows += [
        ["decoded pixels", f"{_decoded_gb(plan):.1f} GB", f"{_decoded_gb(plan) * a_second:.1f} GB a second"],
        ["masks", f"{mask_mb:.0f} MB", f"{mask_mb * options.slides / 1e3:.0f} GB"],
        ["files of masks, --ngff 0.4 (a chunk each)", f"{cells}", f"{cells * options.slides / 1e6:.0f} million"],
    ]
    for tile_px, one in plans.items():
        shards = int(one.scales[-1].tiles.sum()) + sum(coarser(one.scales[-1], one))
        rows.append(
            [f"the same, --ngff 0.5 --tile {tile_px}", f"{shards}", f"{shards * options.slides / 1e6:.1f} million"]
        )
    return Measurement(Table(["what", "a slide", f"{options.slides} slides a day"], rows), notes=[_note(plan)])


def _note(plan: Plan) -> str:
    return (
        f"Arithmetic, for slides of {GIGAPIXELS:g} gigapixels of which {100 * plan.tissue_share:.0f} % are tissue, at "
        "1, 0.5 and 0.25 µm/px, all of it refined, by ResNet50-FPN on the recorded GPU: its scales as recorded under "
        "*On a GPU*, a task's cost to the client as recorded under *A crowd of workers*, a mask's share after "
        "compression as recorded there. Tasks are tiles and those of the mask's coarser levels. Files are of the mask "
        "and its pyramid, at most: background is not written."
    )


def _plan(folder: Path, tile_px: int) -> Plan:
    return Stand.made(folder, gigapixels=GIGAPIXELS, tile_px=tile_px, tissue_share=TISSUE_SHARE).plan


def _tasks(plan: Plan) -> int:
    """Number of tasks: tiles, and tasks that build coarser levels."""
    return sum(int(one.tiles.sum()) + sum(coarser(one, plan)) for one in plan.scales)


def _cells(plan: Plan) -> int:
    """Number of chunks of the finished mask: cells of the finest scale, and a third as many for its pyramid."""
    return round(int(plan.scales[-1].tissue.sum()) * 4 / 3)


def _decoded_gb(plan: Plan) -> float:
    """Gigabytes of the RGB pixels of all patches."""
    return sum(int(one.tissue.sum()) * one.layout.patch_px**2 * 3 for one in plan.scales) / 1e9


def _record(name: str) -> dict[str, dict[str, list[list[str]]]]:
    values: dict[str, dict[str, list[list[str]]]] = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))[
        "measurement"
    ]
    return values


if __name__ == "__main__":
    benchmark("day", "Ten thousand slides a day", measure, add_options)
