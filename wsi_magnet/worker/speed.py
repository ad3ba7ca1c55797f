"""Speed of this machine for one slide and one bundle, measured within seconds on a few of the slide's cells."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import sqrt
from statistics import mean

import numpy as np

from wsi_magnet.config import Execution
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.inference.devices import one_torch_thread, resolve_device
from wsi_magnet.inference.engine import Engine, PatchInput, Pixels
from wsi_magnet.inference.tiles import CellPixels
from wsi_magnet.methods.registry import course_of
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.planning.estimate import MachineSpeed, ScaleSpeed
from wsi_magnet.planning.plan import ScaleLayout, ScalePlan
from wsi_magnet.planning.prepare import PreparedRun
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.types import SlideReader
from wsi_magnet.system import cpu_threads
from wsi_magnet.worker.context import engine_of, restricted
from wsi_magnet.worker.tasks import ContextReader

MEASURE_S = 4.0
"""Time after which no further cells are followed."""

_QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Position (row, column) of the finer cells in a cell."""


def measure_speed(reader: SlideReader, prepared: PreparedRun, bundle: str | None, execution: Execution) -> MachineSpeed:
    """Follow a few tissue cells from the coarsest scale to the finest, as many at once as a run has threads.

    execution: threads or processes of this machine. Raises BundleError, ConfigError.
    """
    started, threads = time.perf_counter(), count_threads(execution)
    config, device = prepared.config, resolve_device(execution.device)
    whole = restricted(load_bundle(bundle), prepared.only_scale)
    engine = engine_of(whole, device, config.precision, config.batch_size, config.method)
    follow = partial(_follow, reader, prepared, engine)
    rounds: list[list[list[_Step]]] = []
    with ThreadPoolExecutor(threads) as pool:
        starts = list(_starts(prepared.plan.scales[0], threads))
        for first in range(0, len(starts), threads):
            rounds.append(list(pool.map(follow, starts[first : first + threads])))
            if time.perf_counter() - started > MEASURE_S:
                break
    steps = [step for one in rounds for steps in one for step in steps]
    timed = [step for one in rounds[1:] or rounds for steps in one for step in steps]  # the first allocates memory
    scales = _speeds(steps, timed, len(prepared.plan.scales), threads)
    return MachineSpeed(scales, threads, str(device), time.perf_counter() - started)


def count_threads(execution: Execution) -> int:
    """Threads that compute tiles on this machine."""
    threads = cpu_threads()
    return threads if execution.workers is None else execution.workers * max(1, threads // execution.workers)


@dataclass(frozen=True, slots=True)
class _Step:
    """A cell that was followed."""

    scale: int
    refined: bool
    seconds: float
    """Of its thread."""
    uncertain: tuple[bool, ...]
    """For each tissue cell of the next scale in it, True if `--refine auto` refines that."""


def _starts(coarsest: ScalePlan, threads: int) -> Iterator[tuple[int, int, int]]:
    """(row, column, turn) of cells of the coarsest scale, spread evenly; the turn chooses the quarter to follow."""
    cells = np.argwhere(coarsest.tissue)
    chosen = cells[np.unique(np.linspace(0, len(cells) - 1, min(4 * threads, len(cells))).astype(int))]
    for turn in range(len(_QUARTERS)):
        for row, col in chosen.tolist():
            yield row, col, turn


def _follow(reader: SlideReader, prepared: PreparedRun, engine: Engine, start: tuple[int, int, int]) -> list[_Step]:
    """Compute a cell at every scale, at each finer one a quarter of it, as a run does."""
    row, col, turn = start
    maps, refine, steps = None, True, []
    scales, course = prepared.plan.scales, course_of(prepared.config.method)
    contexts = ContextReader(reader, engine, scales[0].layout)
    for index, one in enumerate(scales):
        started = time.perf_counter()
        pixels = _computed(contexts, engine, one.layout, (row, col), maps, refine=refine)
        seconds = time.perf_counter() - started
        finer = scales[index + 1] if index + 1 < len(scales) else None
        inside = [] if finer is None else [q for q in _QUARTERS if _has(finer, 2 * row + q[0], 2 * col + q[1])]
        above = prepared.spec.refine_above[index] if finer is not None else 0.0
        uncertain = tuple(float(_quarter(pixels.uncertainty, q).mean()) / 255 >= above for q in inside)
        steps.append(_Step(index, refine, seconds, uncertain))
        if finer is None or not inside:
            break
        chosen = turn % len(inside)
        quarter = inside[chosen]
        edge = engine.margin_px(finer.layout.geometry) // 2 + 1
        maps = np.pad(_quarter(pixels.probabilities, quarter), ((0, 0), (edge, edge), (edge, edge)), mode="edge")
        refine = course.refines_at(index + 1, len(scales)) and (prepared.config.refine != "auto" or uncertain[chosen])
        row, col = 2 * row + quarter[0], 2 * col + quarter[1]
    return steps


def _computed(
    contexts: ContextReader,
    engine: Engine,
    layout: ScaleLayout,
    cell: tuple[int, int],
    maps: Pixels | None,
    *,
    refine: bool,
) -> CellPixels:
    """The result of a cell. maps: coarser probabilities as in `PatchInput`."""
    if maps is not None:
        with one_torch_thread():
            if not refine or engine.is_unaffected(maps, layout.geometry):
                return engine.upsample_only(maps, layout.geometry)
    try:
        image = read_scale(contexts.reader, layout.scale, layout.patch_box(*cell))
        context = None if maps is None else contexts.around(*cell, layout)
    except WsiMagnetError:  # a run records an unreadable cell and goes on
        image = np.zeros((layout.patch_px, layout.patch_px, 3), np.uint8)
        if engine.needs.context and maps is not None:
            return engine.upsample_only(maps, layout.geometry)
        context = None
    with one_torch_thread():
        return next(iter(engine.segment([PatchInput(image, maps, context)] * engine.batch_size, layout.geometry)))


def _speeds(steps: Sequence[_Step], timed: Sequence[_Step], scales: int, threads: int) -> tuple[ScaleSpeed, ...]:
    found: list[ScaleSpeed] = []
    uncertain = 1.0, 1.0
    for scale in range(scales):
        refined, upsampled = (
            [one.seconds / threads for one in timed if one.scale == scale and one.refined is wanted]
            for wanted in (True, False)
        )
        before = found[-1] if found else ScaleSpeed(0.0, 0.0, 0.0, 0.0)
        patch_s = mean(refined) if refined else before.patch_s
        found.append(ScaleSpeed(patch_s, mean(upsampled) if upsampled else before.upsample_s, *uncertain))
        uncertain = _share([yes for one in steps if one.scale == scale for yes in one.uncertain])
    return tuple(found)


def _share(sample: Sequence[bool]) -> tuple[float, float]:
    """A share of which a sample is known, as the range in which it lies more often than not."""
    if not sample:
        return 0.0, 1.0
    share, count = mean(sample), len(sample)
    margin = sqrt(share * (1 - share) / count) + 0.5 / count
    return max(0.0, share - margin), min(1.0, share + margin)


def _has(one: ScalePlan, row: int, col: int) -> bool:
    rows, cols = one.tissue.shape
    return row < rows and col < cols and bool(one.tissue[row, col])


def _quarter(pixels: Pixels, position: tuple[int, int]) -> Pixels:
    half = pixels.shape[-1] // 2
    row, col = (half * one for one in position)
    return pixels[..., row : row + half, col : col + half]
