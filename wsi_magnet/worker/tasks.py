"""Tasks of workers: one tile from reading to writing, a tile of a coarser pyramid level, the survey of a slide.

A worker keeps the context of a run (open slide, networks, images) while it works on it; a task has only coordinates.
The next patches are read and decoded in threads of their own while the networks compute.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np

from wsi_magnet.config import Precision, RunConfig
from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import Box
from wsi_magnet.inference.devices import one_torch_thread, resolve_device
from wsi_magnet.inference.engine import ContextMaps, Engine, PatchInput, not_analysed, upsample_only
from wsi_magnet.inference.optimize import resolve_precision
from wsi_magnet.inference.tiles import (
    CellPixels,
    Pixels,
    Region,
    TileCanvas,
    clear_outside,
    coarse_box,
    quarters,
    tissue_blocks,
)
from wsi_magnet.labels import NOT_ANALYSED
from wsi_magnet.methods.method import Context
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.planning.areas import Areas
from wsi_magnet.planning.plan import CellTask, ScaleLayout, TileTask, grid_box
from wsi_magnet.planning.prepare import PreparedRun, prepare
from wsi_magnet.planning.tissue import TissueMap
from wsi_magnet.polygons import Inside
from wsi_magnet.results.folder import Products
from wsi_magnet.results.journal import CellResult, Distances, TileResult
from wsi_magnet.results.pyramid import Pyramid, halve_tile
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.types import Image, SlideInfo, SlideReader
from wsi_magnet.worker.context import RunSpec, WorkerContext, open_here, worker_contexts


@dataclass(frozen=True, slots=True)
class RunTile:
    """Function over the tiles of a run."""

    run: RunSpec
    fencing_token: str
    """Nothing is written once the result folder has another token."""

    def __call__(self, task: TileTask) -> TileResult:
        """Segment one tile and write it.

        Raises SlideOpenError, BundleError, StoreError, ResultBusyError; pixels that cannot be read raise nothing.
        """
        started = time.perf_counter()
        with worker_contexts.borrow(self.run) as context:
            return _TileComputation(context, task, self.fencing_token).run(started)


@dataclass(frozen=True, slots=True)
class RunInspect:
    """Function that describes a slide on a worker; the client need not reach the file."""

    mpp: float | None

    def __call__(self, slide: str) -> SlideInfo:
        """Open a slide and return its description. Raises SlideOpenError, ConfigError."""
        with closing(open_here(slide, self.mpp)) as reader:
            return reader.info


@dataclass(frozen=True, slots=True)
class RunSurvey:
    """Function that plans the run of a slide on a worker."""

    spec: BundleSpec
    config: RunConfig
    areas: Areas | None = None

    def __call__(self, slide: str) -> PreparedRun:
        """Find the tissue and plan the run. Raises SlideOpenError, MissingMppError, SlideReadError, ConfigError."""
        with closing(open_here(slide, self.config.mpp)) as reader:
            return prepare(reader, self.spec, self.config, self.areas)


@dataclass(frozen=True, slots=True)
class RunProbe:
    """Function that tries a run's slide, bundle and device on a worker, before anything is written or replaced."""

    run: RunSpec

    def __call__(self, task: None) -> Precision:
        """Open the slide, the bundle and the device; returns the precision that "auto" is there.

        Raises SlideOpenError, BundleError, ConfigError.
        """
        settled = self.run.with_precision(resolve_precision(self.run.config.precision, resolve_device(self.run.device)))
        with worker_contexts.borrow(settled):
            return settled.config.precision


@dataclass(frozen=True, slots=True)
class HalveTask:
    """A tile of a coarser pyramid level of one product, to be computed from the next finer level."""

    product: str
    level: int
    box: Box


@dataclass(frozen=True, slots=True)
class RunHalve:
    """Function over the tiles of coarser pyramid levels."""

    run: RunSpec
    fencing_token: str

    def __call__(self, task: HalveTask) -> None:
        """Write one tile. Raises StoreError, ResultBusyError."""
        with worker_contexts.borrow(self.run) as context:
            context.require_fencing_token(self.fencing_token)
            halve_tile(context.pyramids[task.product], task.level, task.box, labels=task.product == "mask")


@dataclass(frozen=True, slots=True)
class RecordLost:
    """Function for a tile that kills its workers: writes the coarser result or label 255, without the slide."""

    run: RunSpec
    spec: BundleSpec
    tissue: TissueMap | None
    """None where everything is analysed."""
    areas: Areas | None = None
    """None without regions and exclusions."""

    def __call__(self, task: TileTask, reason: str) -> TileResult:
        """Write the tile in this process; its cells to be refined are recorded with that reason. Raises StoreError."""
        layout, pyramids = self.run.layouts[task.scale], self.run.products.pyramids(self.run.folder)
        canvas = TileCanvas(layout.tile_box(task.row, task.col), len(self.spec.classes))
        coarse = coarse_region(self.run, task, 0, pyramids["probabilities"])
        cells = []
        for cell in task.cells:
            box = layout.cell_box(cell.row, cell.col)
            pixels = self._pixels(coarse, layout, cell)
            canvas.put(box, pixels)
            failure = reason if cell.refine else None
            cells.append(CellResult(cell.row, cell.col, False, quarters(pixels.uncertainty, box), failure))
        values = sorted({0, NOT_ANALYSED, *(c.value for c in self.spec.classes)})
        counts = clip_and_count(canvas, layout, task, values, self.areas, self.spec.background_index)
        write_tile(canvas, layout, self.run.products, pyramids)
        return TileResult(*task.key, tuple(cells), counts.labels, {}, _worker_name(), counts.regions)

    def _pixels(self, coarse: Region | None, layout: ScaleLayout, cell: CellTask) -> CellPixels:
        if coarse is None:
            return not_analysed(len(self.spec.classes), layout.cell_px)
        maps = coarse.cut(coarse_box(grid_box(cell.row, cell.col, layout.cell_px)))
        with one_torch_thread():
            pixels = upsample_only(maps, self.spec)
        box = layout.cell_box(cell.row, cell.col)
        return background_outside(pixels, self.tissue, layout, box, self.spec.background_index)


class _TileComputation:
    """Computation of one tile."""

    def __init__(self, context: WorkerContext, task: TileTask, fencing_token: str) -> None:
        self._context = context
        self._task = task
        self._fencing_token = fencing_token
        self._layout = context.run.layouts[task.scale]
        self._box = self._layout.tile_box(task.row, task.col)
        self._margin_px = context.engine.margin_px(self._layout.geometry)
        self._canvas = TileCanvas(self._box, context.engine.classes)
        self._contexts = ContextReader(context.reader, context.engine, context.run.layouts[0])
        self._seconds: dict[str, float] = defaultdict(float)

    def run(self, started: float) -> TileResult:
        with _timed(self._seconds, "read"):
            coarse = coarse_region(
                self._context.run, self._task, self._margin_px, self._context.pyramids["probabilities"]
            )
        results = list(self._results(coarse))
        context = self._context
        counts = clip_and_count(
            self._canvas, self._layout, self._task, context.engine.values, context.areas, context.background
        )
        with _timed(self._seconds, "write"):
            self._write()
        self._seconds["total"] = time.perf_counter() - started
        cells = tuple(sorted(results, key=lambda cell: (cell.row, cell.col)))
        return TileResult(*self._task.key, cells, counts.labels, dict(self._seconds), _worker_name(), counts.regions)

    def _results(self, coarse: Region | None) -> Iterator[CellResult]:
        """Put every cell on the canvas: refined, upsampled only, or recorded as unreadable."""
        to_segment: list[tuple[CellTask, Pixels | None]] = []
        for cell in self._task.cells:
            maps = None if coarse is None else coarse.cut(coarse_box(self._needed_box(cell)))
            if maps is None or (cell.refine and not self._is_unaffected(maps)):
                to_segment.append((cell, maps))
            else:
                with _timed(self._seconds, "compute"), one_torch_thread():
                    pixels = self._context.engine.upsample_only(maps, self._layout.geometry)
                yield self._place(cell, self._on_tissue(cell, pixels), unaffected=cell.refine)
        yield from self._segmented(to_segment)

    def _is_unaffected(self, maps: Pixels) -> bool:
        """True where no pixel of the slide could change the cell's result: then it need not be read."""
        with _timed(self._seconds, "compute"), one_torch_thread():
            return self._context.engine.is_unaffected(maps, self._layout.geometry)

    def _segmented(self, cells: Sequence[tuple[CellTask, Pixels | None]]) -> Iterator[CellResult]:
        """Read cells and segment them."""
        unreadable: list[CellResult] = []

        def patches() -> Iterator[tuple[tuple[CellTask, Image], PatchInput]]:
            for (cell, maps), image in zip(cells, self._images(cell for cell, _ in cells), strict=True):
                try:
                    if isinstance(image, SlideReadError):
                        raise image
                    context = None if maps is None else self._contexts.around(cell.row, cell.col, self._layout)
                except SlideReadError as error:
                    unreadable.append(self._unreadable(cell, maps, error.reason))
                else:
                    yield (cell, image), PatchInput(image, maps, context)

        analysed = self._context.predictor.predict(patches(), self._layout.geometry)
        while (one := self._next(analysed)) is not None:
            (cell, image), pixels = one
            yield self._place(cell, self._on_tissue(cell, pixels, image))
        yield from unreadable

    def _unreadable(self, cell: CellTask, maps: Pixels | None, reason: str) -> CellResult:
        """Keep the coarser result of a cell that cannot be read at this scale; label 255 where there is none."""
        if maps is None:
            pixels = not_analysed(self._context.engine.classes, self._layout.cell_px)
        else:
            with one_torch_thread():
                pixels = self._on_tissue(cell, self._context.engine.upsample_only(maps, self._layout.geometry))
        return self._place(cell, pixels, failure=reason)

    def _next(
        self, analysed: Iterator[tuple[tuple[CellTask, Image], CellPixels]]
    ) -> tuple[tuple[CellTask, Image], CellPixels] | None:
        """The next cell; its time without the wait for pixels counts as computing."""
        started, read_s = time.perf_counter(), self._seconds["read"]
        one = next(analysed, None)
        self._seconds["compute"] += time.perf_counter() - started - (self._seconds["read"] - read_s)
        return one

    def _on_tissue(self, cell: CellTask, pixels: CellPixels, patch: Image | None = None) -> CellPixels:
        """The cell with glass as background, see `background_outside`. patch: its image with halo, if read."""
        halo, tissue = self._layout.halo_px, self._context.tissue
        image = None if patch is None else patch[halo:-halo, halo:-halo]
        return background_outside(pixels, tissue, self._layout, self._cell(cell), self._context.background, image)

    def _images(self, cells: Iterable[CellTask]) -> Iterator[Image | SlideReadError]:
        """Patches of cells in order, a few of them prefetched."""
        waiting: deque[Future[Image | SlideReadError]] = deque()
        for cell in cells:
            waiting.append(self._context.read_threads.submit(self._read, self._layout.patch_box(cell.row, cell.col)))
            if len(waiting) > self._context.prefetch:
                yield self._wait(waiting.popleft())
        while waiting:
            yield self._wait(waiting.popleft())

    def _wait(self, image: Future[Image | SlideReadError]) -> Image | SlideReadError:
        with _timed(self._seconds, "read"):
            return image.result()

    def _read(self, box: Box) -> Image | SlideReadError:
        try:
            return read_scale(self._context.reader, self._layout.scale, box)
        except SlideReadError as error:
            return error

    def _needed_box(self, cell: CellTask) -> Box:
        """Box of the maps that a cell's result depends on; it may extend beyond the grid."""
        return self._layout.patch_box(cell.row, cell.col).grow(self._margin_px - self._layout.halo_px)

    def _cell(self, cell: CellTask) -> Box:
        return self._layout.cell_box(cell.row, cell.col)

    def _place(
        self, cell: CellTask, pixels: CellPixels, failure: str | None = None, *, unaffected: bool = False
    ) -> CellResult:
        box = self._cell(cell)
        self._canvas.put(box, pixels)
        refined = cell.refine and failure is None
        sums, compared = quarters(pixels.uncertainty, box), self._distances(pixels, box)
        return CellResult(cell.row, cell.col, refined, sums, failure, unaffected, pixels.changed_px, compared)

    def _distances(self, pixels: CellPixels, box: Box) -> Distances:
        """(Sum, blocks) of the distances of a cell's blocks with tissue."""
        if pixels.distances is None or not pixels.distances.any():
            return 0, 0
        tissue = self._context.tissue
        inside = np.ones(box.size.hw, np.bool_) if tissue is None else tissue.around(self._layout.scale, box)
        found = pixels.distances[tissue_blocks(inside, self._layout.cell_px)]
        return int(np.rint(1000 * found).sum()), len(found)

    def _write(self) -> None:
        self._context.require_fencing_token(self._fencing_token)
        write_tile(self._canvas, self._layout, self._context.run.products, self._context.pyramids)


class ContextReader:
    """Patches of the coarsest scale for methods that need context, each read and computed once for a tile."""

    def __init__(self, reader: SlideReader, engine: Engine, coarsest: ScaleLayout) -> None:
        self.reader, self._engine, self._coarsest = reader, engine, coarsest
        self._maps: dict[tuple[int, int], ContextMaps] = {}

    def around(self, row: int, col: int, layout: ScaleLayout) -> Context | None:
        """Context of a cell of a finer scale; None for methods that need none. Raises SlideReadError."""
        if not self._engine.needs.context:
            return None
        cell, ratio = (row // layout.ratio, col // layout.ratio), layout.ratio
        whole, patch = self._coarsest.patch_box(*cell), layout.patch_box(row, col)
        if cell not in self._maps:
            image = read_scale(self.reader, self._coarsest.scale, whole)
            with one_torch_thread():
                self._maps[cell] = self._engine.context(image)
        maps = self._maps[cell]
        corner_yx = (patch.y0 / ratio - whole.y0, patch.x0 / ratio - whole.x0)
        return Context(maps.probabilities, maps.features, ratio, corner_yx)


def coarse_region(run: RunSpec, task: TileTask, margin_px: int, probabilities: Pyramid) -> Region | None:
    """Stored probabilities of the coarser scale under a tile and its margin; None at the first. Raises StoreError."""
    if task.scale == 0:
        return None
    coarser = run.layouts[task.scale - 1]
    grid = coarser.scale.grid
    tile = run.layouts[task.scale].tile_box(task.row, task.col)
    box = coarse_box(tile.grow(margin_px)).grow(1).intersect(grid)
    return Region(box, grid, probabilities.read(coarser.mask_level, box))


def background_outside(
    pixels: CellPixels,
    tissue: TissueMap | None,
    layout: ScaleLayout,
    cell: Box,
    background: int | None,
    image: Image | None = None,
) -> CellPixels:
    """A cell with background on glass; a cell that was not analysed is unchanged.

    background: channel of the background class, with which the networks decide near tissue; None leaves it to the
    tissue map and, near its border, to the colours of `image`, uint8 (rows, columns, 3) RGB. tissue: None changes
    nothing.
    """
    if tissue is None or (pixels.labels == NOT_ANALYSED).all():
        return pixels
    if background is not None:
        return clear_outside(pixels, tissue.near(layout.scale, cell), background)
    return clear_outside(pixels, tissue.on_tissue(layout.scale, cell, image), None)


@dataclass(frozen=True, slots=True)
class TileCounts:
    """Analysed pixels of a tile by label value."""

    labels: dict[int, int]
    regions: dict[int, dict[int, int]]
    """Those of each region by its index; at the finest scale alone."""


def clip_and_count(
    canvas: TileCanvas,
    layout: ScaleLayout,
    task: TileTask,
    values: Sequence[int],
    areas: Areas | None,
    background: int | None,
) -> TileCounts:
    """Clear what lies outside the areas, and count the other pixels of a task's cells.

    Probabilities of scales before the finest stay whole: the next scale reads them across the areas' edges. background:
    channel of the background class.
    """
    if areas is None or not areas.restrict:
        return TileCounts(label_pixels(canvas, layout, task, values), {})
    inside = areas.inside(layout.scale, canvas.box)
    finest = layout.mask_level == 0
    canvas.clear(~inside, background, probabilities=finest)
    regions = {}
    for index, own in areas.by_region(layout.scale, canvas.box) if finest else ():
        if counts := label_pixels(canvas, layout, task, values, own):
            regions[index] = counts
    return TileCounts(label_pixels(canvas, layout, task, values, inside), regions)


def label_pixels(
    canvas: TileCanvas, layout: ScaleLayout, task: TileTask, values: Iterable[int], inside: Inside | None = None
) -> dict[int, int]:
    """Pixels by label value over a tile's cells; those outside the task's cells are not counted.

    inside: bool (tile height, tile width), pixels to count; None: all.
    """
    counts: Counter[int] = Counter()
    for cell in task.cells:
        part = layout.cell_box(cell.row, cell.col).relative_to(canvas.box).slices_yx
        labels = canvas.labels[part] if inside is None else canvas.labels[part][inside[part]]
        # For a handful of values a comparison each is ten times as fast as sorting the pixels.
        counts.update({v: n for v in values if (n := int(np.count_nonzero(labels == v)))})
    return dict(sorted(counts.items()))


def write_tile(canvas: TileCanvas, layout: ScaleLayout, products: Products, pyramids: Mapping[str, Pyramid]) -> None:
    """Write the images of a tile; pyramids: by product. Raises StoreError."""
    level, box = layout.mask_level, canvas.box
    if products.probabilities or level:  # those of the finest scale are the input of no other
        pyramids["probabilities"].write(level, box, canvas.probabilities)
    if products.uncertainty:
        pyramids["uncertainty"].write(level, box, canvas.uncertainty)
    # The mask last: where labels of a tile are stored, its other images are too.
    pyramids["mask"].write(level, box, canvas.labels)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Context whose duration is added to a counter."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - started


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
