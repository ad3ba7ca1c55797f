"""Simulated tiles that only wait: plan, tasks and results of a real run, without pixels."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from heapq import heapreplace
from itertools import chain, islice, repeat
from pathlib import Path

from benchmarks.record import RECORDS
from tests.runs import free_spec, write_bundle
from tests.slides_made import write_gigapixel_slide
from wsi_magnet.config import DEFAULT_CELL_PX, RunConfig
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.planning.plan import Plan, ScalePlan, TileTask, pool_any
from wsi_magnet.planning.prepare import prepare
from wsi_magnet.results.folder import Products
from wsi_magnet.results.journal import CellResult, TileResult
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.worker.context import RunSpec
from wsi_magnet.worker.tasks import HalveTask

QUARTER = (DEFAULT_CELL_PX // 2) ** 2
MPPS = (1.0, 0.5, 0.25)


@dataclass(frozen=True, slots=True)
class SimulatedTile:
    """Replacement of `RunTile`."""

    run: RunSpec
    fencing_token: str = ""
    patch_s: float = 0.0

    def __call__(self, task: TileTask) -> TileResult:
        """Wait as long as the tile's patches take, and return a result of its size."""
        seconds = self.patch_s * sum(cell.refine for cell in task.cells)
        if seconds:
            time.sleep(seconds)
        cells = tuple(
            CellResult(cell.row, cell.col, cell.refine, ((4_321_000 + cell.col, QUARTER),) * 4) for cell in task.cells
        )
        spent = {"read": seconds / 10, "compute": seconds * 0.8, "write": seconds / 10, "total": seconds}
        labels = {1: 3 * QUARTER * len(cells), 2: QUARTER * len(cells)}
        return TileResult(*task.key, cells, labels, spent, f"{socket.gethostname()}:{os.getpid()}")


@dataclass(frozen=True, slots=True)
class SimulatedHalve:
    """Replacement of `RunHalve`."""

    run: RunSpec
    fencing_token: str = ""
    pixel_s: float = 0.0

    def __call__(self, task: HalveTask) -> None:
        """Wait as long as the task's pixels take."""
        time.sleep(self.pixel_s * task.box.size.pixels * 4)


@dataclass(frozen=True, eq=False)
class Stand:
    """A slide's plan, and the function that simulates its tiles."""

    slide: Path
    bundle: Path
    plan: Plan
    function: SimulatedTile

    @staticmethod
    def made(
        folder: Path, *, gigapixels: float, tile_s: float = 0.0, tile_px: int = 1024, tissue_share: float = 0.95
    ) -> Stand:
        """Generate a slide and its plan. tile_s: seconds for each patch of a tile."""
        folder.mkdir(parents=True, exist_ok=True)
        slide = folder / "slide.tif"
        write_gigapixel_slide(slide, gigapixels=gigapixels, tissue_share=tissue_share)
        bundle = write_bundle(folder / "free.safetensors", free_spec(mpps=MPPS))
        spec, sha256 = read_spec(bundle)
        config = RunConfig(refine="all", tile_px=tile_px)
        with closing(open_slide(slide)) as reader:
            prepared = prepare(reader, spec, config)
        plan, info = prepared.plan, prepared.info
        products = Products(plan.pyramid_sizes, len(spec.classes), config.ngff, tile_px, False, False)
        names = (info.path, info.identity, str(bundle), sha256, folder / "out" / slide.stem)
        run = RunSpec(*names, config, plan.layouts, products, "cpu", prepared.tissue.reference)
        return Stand(slide, bundle, plan, SimulatedTile(run, "", tile_s))

    def tasks(self, count: int) -> Iterator[TileTask]:
        """A number of tasks: those of the finest scale, repeated."""
        finest = self.plan.scales[-1]
        once = list(finest.tasks(finest.tissue))
        return islice(chain.from_iterable(repeat(once)), count)


def gpu_patch_s() -> float:
    """Seconds that a worker's thread needs for each patch on a GPU, reading and writing included, as recorded."""
    rows = json.loads((RECORDS / "gpu.json").read_text(encoding="utf-8"))["measurement"]["table"]["rows"]
    values = {row[0]: row[1] for row in rows}
    return float(values["tiles' time in total, all threads"]) / float(values["patches"])


def halving_pixel_s() -> float:
    """Seconds of a thread for each pixel of the mask when a coarser level is built, as recorded."""
    notes = json.loads((RECORDS / "everyday.json").read_text(encoding="utf-8"))["measurement"]["notes"]
    speed = next(note for note in notes if note.startswith("A pyramid is built at")).split()[5]
    return 1e-6 / float(speed)


def least_s(plan: Plan, patch_s: float, workers: int) -> float:
    """Ideal schedule of one slide: scale after scale and level after level, every worker busy while tasks are left."""
    seconds = 0.0
    for one in plan.scales:
        seconds += makespan([patch_s * len(task.cells) for task in one.tasks(one.tissue)], workers)
        halving_s = halving_pixel_s() * 4 * one.layout.tile_px**2
        seconds += sum(makespan([halving_s] * count, workers) for count in coarser(one, plan))
    return seconds


def makespan(durations: Sequence[float], workers: int) -> float:
    """Time until all tasks are done, each started in order by the first free worker."""
    free = [0.0] * workers
    for duration in durations:
        heapreplace(free, free[0] + duration)
    return max(free)


def coarser(one: ScalePlan, plan: Plan) -> Iterator[int]:
    """Number of tasks that build each coarser level after a scale."""
    tiles = one.tiles
    for _ in range(one.layout.mask_level + 1, len(plan.pyramid_sizes)):
        tiles = pool_any(tiles, 2)
        yield int(tiles.sum())
