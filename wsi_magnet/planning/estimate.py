"""Cost of a plan: patches, decoded bytes, memory and disk, by arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from wsi_magnet.config import CHUNK_PX, MAGNET, Refine
from wsi_magnet.methods.registry import course_of
from wsi_magnet.planning.budget import Budget
from wsi_magnet.planning.plan import Plan, ScalePlan, pool_any
from wsi_magnet.slides.types import Level, SlideInfo

ACTIVATION_BYTES_PER_PX = {"small": 200, "fpn": 1000, "psp": 600, "hrnet18+ocr": 14_000, "identity": 40}
"""Peak bytes of a forward pass for each pixel of a patch, by network, in float32; `python -m
benchmarks.activations` prints them. Networks of other packages state their own."""

REFINER_BYTES_PER_PX = 500

BASE_BYTES = 450 * 2**20
"""Memory of a worker process with its libraries loaded, before the first tile."""


START_S = 5.0
"""Time in which the program and its workers start."""

STORE_S = 0.02
"""Time of a thread to write a chunk."""


SPREAD = 1.25
"""Factor, either way, within which the time of a cell is taken to be known."""


@dataclass(frozen=True, slots=True)
class ScaleSpeed:
    """Seconds of a machine for the cells of a scale, all its threads at work."""

    patch_s: float
    """For a cell that is read, segmented and refined."""
    upsample_s: float
    """For a cell that is not refined."""
    least_uncertain: float
    """Share of the cells that `--refine auto` refines, at least."""
    most_uncertain: float
    """And at most."""


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """Measured speed of a machine for a slide and a bundle."""

    scales: tuple[ScaleSpeed, ...]
    threads: int
    device: str
    measured_s: float
    """Time that the measurement took."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Estimated time."""

    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Estimated time of a run."""

    speed: MachineSpeed
    scales: tuple[Seconds, ...]
    total: Seconds
    """With the start of the program."""


@dataclass(frozen=True, slots=True)
class ScaleCost:
    """Cost of one scale."""

    mpp: float
    slide_level: int
    tiles: int
    cells: int
    patches: int
    """Patches that the networks process: the maximum with `--refine auto`; an estimate with a fraction, which is spent
    by uncertainty, though the sum over all scales is exact."""
    decoded_bytes: int
    disk_bytes: int
    """Upper bound, before compression."""
    chunks: int
    """Stored chunks of the mask."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a whole plan."""

    scales: tuple[ScaleCost, ...]
    memory_bytes: int
    """Memory of one worker process. It does not depend on the slide's size, except for a PNG or JPEG, which is decoded
    whole. In a cohort of plain images each thread may hold another one, and the last one is kept."""

    @property
    def disk_bytes(self) -> int:
        """Upper bound of the disk space, before compression, when it is largest."""
        return sum(one.disk_bytes for one in self.scales)

    @property
    def total(self) -> dict[str, int]:
        """Sums over the scales, by the names of `ScaleCost`."""
        names = ("tiles", "cells", "patches", "decoded_bytes", "disk_bytes")
        return {name: sum(getattr(one, name) for one in self.scales) for name in names}


def estimate(
    plan: Plan,
    info: SlideInfo,
    network: str,
    *,
    classes: int,
    refine: Refine,
    threads: int,
    batch: int,
    method: str = MAGNET,
    weight_bytes: int = 0,
) -> Cost:
    """Cost of a plan on workers with `threads` threads and batches of `batch` patches. weight_bytes: of the bundle's
    weights, which the threads of a worker share.
    """
    pairs = zip(plan.scales, planned_patches(plan, refine, method), strict=True)
    scales = tuple(_scale_cost(one, info.levels, classes, patches) for one, patches in pairs)
    memory = _memory(plan, network, classes, threads, batch)
    return Cost(scales, info.cache_bytes + weight_bytes + memory)


def time_of(cost: Cost, speed: MachineSpeed, refine: Refine) -> Timing:
    """Time of a run on the machine whose speed was measured."""
    found = []
    for one, cell in zip(cost.scales, speed.scales, strict=True):
        patches = one.patches, one.patches
        if refine == "auto":
            patches = floor(one.cells * cell.least_uncertain), ceil(one.cells * cell.most_uncertain)
        storing = one.chunks * STORE_S / speed.threads
        least, most = (n * cell.patch_s + (one.cells - n) * cell.upsample_s + storing for n in patches)
        busy = min(speed.threads, max(1, one.tiles)) if speed.device == "cpu" else speed.threads
        idle = speed.threads / busy  # a tile is computed by one thread
        found.append(Seconds(idle * least / SPREAD, idle * most * SPREAD))
    total = Seconds(START_S + sum(one.least for one in found), START_S + sum(one.most for one in found))
    return Timing(speed, tuple(found), total)


def planned_patches(plan: Plan, refine: Refine, method: str = MAGNET) -> list[int]:
    """Patches of each scale: the maximum with "auto".

    A fraction is taken to be spent coarse scales first, which is where it is worth most as long as no part of the slide
    is much surer than another.
    """
    cells, course = [int(one.tissue.sum()) for one in plan.scales], course_of(method)
    if course.refines == "last" and len(cells) > 1:
        return [cells[0], *[0] * (len(cells) - 2), Budget.of(refine, cells[-1:], 1, 0).left]
    patches, spent = cells[:1], 0
    for index in range(1, len(cells)):
        patches.append(min(cells[index], Budget.of(refine, cells[1:], index, spent).left))
        spent += patches[-1]
    return patches


def _scale_cost(one: ScalePlan, levels: Sequence[Level], classes: int, patches: int) -> ScaleCost:
    cells = int(one.tissue.sum())
    layout, level = one.layout, levels[one.layout.slide_level]
    ratio_xy = [d / s for d, s in zip(layout.scale.downsample_xy, level.downsample_xy, strict=True)]
    # A patch that reaches beyond the slide is mirrored there.
    width, height = (min(int(layout.patch_px * r), side) for r, side in zip(ratio_xy, level.size.wh, strict=True))
    decoded = patches * width * height * 3
    labels_and_probabilities = 1 + (classes if layout.mask_level else 0)
    chunks = int(pool_any(one.tissue, CHUNK_PX // layout.cell_px).sum())
    disk = chunks * CHUNK_PX**2 * labels_and_probabilities
    return ScaleCost(layout.scale.mpp, layout.slide_level, int(one.tiles.sum()), cells, patches, decoded, disk, chunks)


def _memory(plan: Plan, network: str, classes: int, threads: int, batch: int) -> int:
    patch_px = max(p.layout.patch_px for p in plan.scales)
    tile_px = max(p.layout.tile_px for p in plan.scales)
    activations = batch * patch_px**2 * max(_activation_bytes_per_px(network), REFINER_BYTES_PER_PX)
    tile = tile_px**2 * (classes + 2) * 2
    return BASE_BYTES + threads * (activations + tile)


def _activation_bytes_per_px(network: str) -> int:
    if network in ACTIVATION_BYTES_PER_PX:
        return ACTIVATION_BYTES_PER_PX[network]
    from wsi_magnet.nets.registry import network_info  # with torch, and the package that the network is from

    return network_info(network).activation_bytes_per_px
