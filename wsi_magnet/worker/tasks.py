"""One tile, from reading to writing: the one hall where slide, networks and store meet. Runs on workers.

A worker keeps what a job needs (open slide, networks, stores) for as long as it works on it; a task brings only
coordinates. Reading and decoding the next patches goes on in threads of its own while the networks compute.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np

from wsi_magnet.config import Precision, RunConfig
from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import Box
from wsi_magnet.inference.devices import one_torch_thread, resolve_device
from wsi_magnet.inference.engine import PatchInput, not_analysed
from wsi_magnet.inference.optimize import resolve_precision
from wsi_magnet.inference.tiles import CellPixels, Pixels, Region, TileCanvas, clear_outside, coarse_box, quarters
from wsi_magnet.labels import NOT_ANALYSED
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.planning.plan import CellTask, ScaleLayout, TileTask
from wsi_magnet.planning.prepare import PreparedRun, prepare
from wsi_magnet.results.folder import Products
from wsi_magnet.results.journal import CellResult, TileResult
from wsi_magnet.results.pyramid import Pyramid, halve_tile
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.types import Image
from wsi_magnet.worker.context import RunSpec, WorkerContext, in_hall, open_here, pyramids_of


@dataclass(frozen=True, slots=True)
class RunTile:
    """The function that workers run: a job, waiting for a tile."""

    job: RunSpec
    turn: str
    """Of the result folder; once that is another's, nothing is written."""

    def __call__(self, task: TileTask) -> TileResult:
        """Analyse one tile and write it.

        Raises SlideOpenError, BundleError, StoreError, ResultBusyError; never for a cell's pixels.
        """
        started = time.perf_counter()
        with in_hall(self.job) as hall:
            return _Tile(hall, task, self.turn).run(started)


@dataclass(frozen=True, slots=True)
class RunSurvey:
    """The function that looks at a slide where the work is done: whoever asks need not see it."""

    spec: BundleSpec
    config: RunConfig

    def __call__(self, slide: str) -> PreparedRun:
        """Open a slide and lay out its passes. Raises SlideOpenError, MissingMppError, SlideReadError, ConfigError."""
        with closing(open_here(slide, self.config.mpp)) as reader:
            return prepare(reader, self.spec, self.config)


@dataclass(frozen=True, slots=True)
class RunProbe:
    """The function that shows whether a worker can do a job at all, before anything is written or replaced."""

    job: RunSpec

    def __call__(self, task: None) -> Precision:
        """Open the slide, the bundle and the device; returns the arithmetic that "auto" is there.

        Raises SlideOpenError, BundleError, ConfigError.
        """
        settled = self.job.with_precision(resolve_precision(self.job.config.precision, resolve_device(self.job.device)))
        with in_hall(settled):
            return settled.config.precision


@dataclass(frozen=True, slots=True)
class HalveTask:
    """A tile of a coarser pyramid level of one product, to be made from the level below."""

    product: str
    level: int
    box: Box


@dataclass(frozen=True, slots=True)
class RunHalve:
    """The function that workers run to build pyramids."""

    job: RunSpec
    turn: str

    def __call__(self, task: HalveTask) -> None:
        """Fill one tile. Raises StoreError, ResultBusyError."""
        with in_hall(self.job) as hall:
            hall.require_turn(self.turn)
            halve_tile(hall.pyramid(task.product), task.level, task.box, labels=task.product == "mask")


def record_lost(job: RunSpec, task: TileTask, reason: str) -> TileResult:
    """Label the cells of a tile that no worker survives "not analysed", with neither slide nor networks.

    Raises StoreError.
    """
    frame = job.frames[task.scale]
    canvas = TileCanvas(frame.tile_box(task.row, task.col), job.products.classes)
    nothing = not_analysed(job.products.classes)
    cells = []
    for cell in task.cells:
        box = frame.cell_box(cell.row, cell.col)
        canvas.put(box, nothing)
        cells.append(CellResult(cell.row, cell.col, cell.refine, quarters(nothing.uncertainty, box), reason))
    write_tile(canvas, frame, job.products, pyramids_of(job).__getitem__)
    pixels = sum(frame.cell_box(cell.row, cell.col).size.pixels for cell in task.cells)
    return TileResult(*task.key, tuple(cells), {NOT_ANALYSED: pixels}, {}, _worker_name())


class _Tile:
    """One tile under way."""

    def __init__(self, hall: WorkerContext, task: TileTask, turn: str) -> None:
        self._hall = hall
        self._task = task
        self._turn = turn
        self._frame = hall.job.frames[task.scale]
        self._box = self._frame.tile_box(task.row, task.col)
        self._margin_px = hall.engine.margin_px(self._frame.geometry)
        self._canvas = TileCanvas(self._box, hall.engine.classes)
        self._seconds: dict[str, float] = defaultdict(float)

    def run(self, started: float) -> TileResult:
        with _timed(self._seconds, "read"):
            coarse = self._coarse_region()
        results = list(self._results(coarse))
        with _timed(self._seconds, "write"):
            self._write()
        self._seconds["total"] = time.perf_counter() - started
        cells = tuple(sorted(results, key=lambda cell: (cell.row, cell.col)))
        return TileResult(*self._task.key, cells, self._label_pixels(), dict(self._seconds), _worker_name())

    def _coarse_region(self) -> Region | None:
        """The coarser scale's probabilities under the tile and its margin, as stored."""
        if self._task.scale == 0:
            return None
        coarser = self._hall.job.frames[self._task.scale - 1]
        grid = coarser.scale.grid
        box = coarse_box(self._box.grow(self._margin_px)).grow(1).intersect(grid)
        return Region(box, grid, self._hall.pyramid("probabilities").read(coarser.mask_level, box))

    def _results(self, coarse: Region | None) -> Iterator[CellResult]:
        """All cells, each put in its place: refined, carried over, or recorded as one that cannot be read."""
        looked_at: list[tuple[CellTask, Pixels | None]] = []
        for cell in self._task.cells:
            maps = None if coarse is None else coarse.cut(coarse_box(self._depended_on(cell)))
            if maps is None or (cell.refine and not self._certain(maps)):
                looked_at.append((cell, maps))
            else:
                with _timed(self._seconds, "compute"), one_torch_thread():
                    pixels = self._hall.engine.upsample_only(maps, self._frame.geometry)
                yield self._put(cell, self._on_tissue(cell, pixels), unread=cell.refine)
        yield from self._looked_at(looked_at)

    def _certain(self, maps: Pixels) -> bool:
        """True where nothing that is seen could change a cell: then it is what refining would make of it, unread."""
        with _timed(self._seconds, "compute"), one_torch_thread():
            return self._hall.engine.is_unaffected(maps, self._frame.geometry)

    def _looked_at(self, cells: Sequence[tuple[CellTask, Pixels | None]]) -> Iterator[CellResult]:
        """Cells that are read and segmented."""
        unread: list[CellResult] = []

        def patches() -> Iterator[tuple[CellTask, PatchInput]]:
            for (cell, maps), image in zip(cells, self._images(cell for cell, _ in cells), strict=True):
                if isinstance(image, SlideReadError):
                    pixels = not_analysed(self._hall.engine.classes)
                    unread.append(self._put(cell, pixels, failure=str(image)))
                else:
                    yield cell, PatchInput(image, maps)

        analysed = self._hall.predictor.predict(patches(), self._frame.geometry)
        while (one := self._next(analysed)) is not None:
            yield self._put(one[0], self._on_tissue(*one))
        yield from unread

    def _next(self, analysed: Iterator[tuple[CellTask, CellPixels]]) -> tuple[CellTask, CellPixels] | None:
        """The next cell; the time it took, without what was spent waiting for pixels, is computing."""
        begun, read_s = time.perf_counter(), self._seconds["read"]
        one = next(analysed, None)
        self._seconds["compute"] += time.perf_counter() - begun - (self._seconds["read"] - read_s)
        return one

    def _on_tissue(self, cell: CellTask, pixels: CellPixels) -> CellPixels:
        """Glass is background, whatever a network takes it for; a cell that was not analysed stays so."""
        if self._hall.tissue is None or (pixels.labels == NOT_ANALYSED).all():
            return pixels
        inside = self._hall.tissue.around(self._frame.scale, self._cell(cell))
        return clear_outside(pixels, inside, self._hall.background)

    def _images(self, cells: Iterable[CellTask]) -> Iterator[Image | SlideReadError]:
        """The cells' patches in order, always a few ahead of the networks."""
        ahead: deque[Future[Image | SlideReadError]] = deque()
        for cell in cells:
            ahead.append(self._hall.readers.submit(self._read, self._frame.patch_box(cell.row, cell.col)))
            if len(ahead) > self._hall.ahead:
                yield self._wait(ahead.popleft())
        while ahead:
            yield self._wait(ahead.popleft())

    def _wait(self, image: Future[Image | SlideReadError]) -> Image | SlideReadError:
        with _timed(self._seconds, "read"):
            return image.result()

    def _read(self, box: Box) -> Image | SlideReadError:
        try:
            return read_scale(self._hall.reader, self._frame.scale, box)
        except SlideReadError as error:
            return error

    def _depended_on(self, cell: CellTask) -> Box:
        """The square of the maps that a cell's result depends on; it may reach beyond the grid."""
        return self._frame.patch_box(cell.row, cell.col).grow(self._margin_px - self._frame.halo_px)

    def _cell(self, cell: CellTask) -> Box:
        return self._frame.cell_box(cell.row, cell.col)

    def _put(
        self, cell: CellTask, pixels: CellPixels, failure: str | None = None, *, unread: bool = False
    ) -> CellResult:
        box = self._cell(cell)
        self._canvas.put(box, pixels)
        return CellResult(cell.row, cell.col, cell.refine, quarters(pixels.uncertainty, box), failure, unread)

    def _label_pixels(self) -> dict[int, int]:
        """Pixels by label value over the tile's cells; what has no tissue is not counted."""
        counts: Counter[int] = Counter()
        for cell in self._task.cells:
            labels = self._canvas.labels[self._cell(cell).relative_to(self._box).slices_yx]
            # A handful of values: to look for each is ten times as quick as to sort the pixels.
            counts.update({v: n for v in self._hall.engine.values if (n := int(np.count_nonzero(labels == v)))})
        return dict(sorted(counts.items()))

    def _write(self) -> None:
        self._hall.require_turn(self._turn)
        write_tile(self._canvas, self._frame, self._hall.job.products, self._hall.pyramid)


def write_tile(canvas: TileCanvas, frame: ScaleLayout, products: Products, pyramid: Callable[[str], Pyramid]) -> None:
    """All that is kept of a tile; `pyramid` gives the image of a name. Raises StoreError."""
    level, box = frame.mask_level, canvas.box
    if products.probabilities or level:  # the finest scale's are nobody's input
        pyramid("probabilities").write(level, box, canvas.probabilities)
    if products.uncertainty:
        pyramid("uncertainty").write(level, box, canvas.uncertainty)
    # The mask last: a viewer that sees a tile's labels may rely on everything else.
    pyramid("mask").write(level, box, canvas.labels)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time spent inside to a counter."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - started


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
