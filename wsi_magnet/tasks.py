"""One tile, from reading to writing: the one hall where slide, networks and store meet. Runs on workers.

A worker keeps what a job needs (open slide, networks, stores) for as long as it works on it; a task brings only
coordinates. Reading and decoding the next patches goes on in threads of its own while the networks compute.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from wsi_magnet.engine import PatchInput, not_analysed, one_torch_thread
from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import Box
from wsi_magnet.hall import Hall, Job, hall_of
from wsi_magnet.journal import CellResult, TileResult
from wsi_magnet.ngff import NOT_ANALYSED
from wsi_magnet.plan import CellTask, TileTask
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.types import Image
from wsi_magnet.stitch import CellPixels, Region, TileCanvas, clear_outside, coarse_box, quarters
from wsi_magnet.store import halve_tile


@dataclass(frozen=True, slots=True)
class RunTile:
    """The function that workers run: a job, waiting for a tile."""

    job: Job

    def __call__(self, task: TileTask) -> TileResult:
        """Analyse one tile and write it. Raises SlideOpenError, BundleError, StoreError; never for a cell's pixels."""
        started = time.perf_counter()
        hall = hall_of(self.job)
        with hall.busy():
            return _Tile(hall, task).run(started)


@dataclass(frozen=True, slots=True)
class RunProbe:
    """The function that shows whether a worker can do a job at all, before anything is written or replaced."""

    job: Job

    def __call__(self, task: None) -> None:
        """Open the slide, the bundle and the device. Raises SlideOpenError, BundleError, ConfigError."""
        hall_of(self.job)


@dataclass(frozen=True, slots=True)
class HalveTask:
    """A tile of a coarser pyramid level of one product, to be made from the level below."""

    product: str
    level: int
    box: Box


@dataclass(frozen=True, slots=True)
class RunHalve:
    """The function that workers run to build pyramids."""

    job: Job

    def __call__(self, task: HalveTask) -> None:
        """Fill one tile. Raises StoreError."""
        pyramid = hall_of(self.job).pyramid(task.product)
        halve_tile(pyramid, task.level, task.box, labels=task.product == "mask")


class _Tile:
    """One tile under way."""

    def __init__(self, hall: Hall, task: TileTask) -> None:
        self._hall = hall
        self._task = task
        self._frame = hall.job.frames[task.scale]
        self._box = self._frame.tile_box(task.row, task.col)
        self._canvas = TileCanvas(self._box, hall.engine.classes)
        self._seconds: dict[str, float] = defaultdict(float)

    def run(self, started: float) -> TileResult:
        with _timed(self._seconds, "read"):
            coarse = self._coarse_region()
        results = [*self._refined(coarse), *self._carried(coarse)]
        with _timed(self._seconds, "write"):
            self._write()
        self._seconds["total"] = time.perf_counter() - started
        cells = tuple(sorted(results, key=lambda cell: (cell.row, cell.col)))
        return TileResult(*self._task.key, cells, self._label_pixels(), dict(self._seconds), _worker_name())

    def _coarse_region(self) -> Region | None:
        """The coarser scale's probabilities under the tile and its halo, as stored."""
        if self._task.scale == 0:
            return None
        coarser = self._hall.job.frames[self._task.scale - 1]
        grid = coarser.scale.grid
        box = coarse_box(self._box.grow(self._frame.halo_px)).grow(1).intersect(grid)
        return Region(box, grid, self._hall.pyramid("probabilities").read(coarser.mask_level, box))

    def _refined(self, coarse: Region | None) -> Iterator[CellResult]:
        """Cells that are read and segmented, in batches; one that cannot be read is recorded and left out."""
        batch: list[tuple[CellTask, PatchInput]] = []
        for cell, image in self._images([cell for cell in self._task.cells if cell.refine]):
            if isinstance(image, SlideReadError):
                yield self._put(cell, not_analysed(self._hall.engine.classes), failure=str(image))
                continue
            batch.append((cell, PatchInput(image, self._cut(coarse, cell))))
            if len(batch) == self._hall.engine.batch_size:
                yield from self._compute(batch)
                batch = []
        if batch:
            yield from self._compute(batch)

    def _compute(self, batch: list[tuple[CellTask, PatchInput]]) -> Iterator[CellResult]:
        with _timed(self._seconds, "compute"), self._hall.compute, one_torch_thread():
            pixels = list(self._hall.engine.segment([item for _, item in batch], self._frame))
        for (cell, _), one in zip(batch, pixels, strict=True):
            yield self._put(cell, self._on_tissue(cell, one))

    def _carried(self, coarse: Region | None) -> Iterator[CellResult]:
        """Cells that are sure enough already: the coarser result, upsampled."""
        for cell in self._task.cells:
            if not cell.refine:
                with _timed(self._seconds, "compute"), one_torch_thread():
                    pixels = self._hall.engine.carry(PatchInput(None, self._cut(coarse, cell)), self._frame)
                yield self._put(cell, self._on_tissue(cell, pixels))

    def _on_tissue(self, cell: CellTask, pixels: CellPixels) -> CellPixels:
        """Glass is background, whatever a network takes it for; a cell that was not analysed stays so."""
        if self._hall.tissue is None or (pixels.labels == NOT_ANALYSED).all():
            return pixels
        inside = self._hall.tissue.around(self._frame.scale, self._frame.cell_box(cell.row, cell.col))
        return clear_outside(pixels, inside, self._hall.background)

    def _images(self, cells: Iterable[CellTask]) -> Iterator[tuple[CellTask, Image | SlideReadError]]:
        """The cells' patches in order, always a few ahead of the networks."""
        ahead: deque[tuple[CellTask, Future[Image | SlideReadError]]] = deque()
        for cell in cells:
            ahead.append((cell, self._hall.readers.submit(self._read, self._frame.patch_box(cell.row, cell.col))))
            if len(ahead) > self._hall.engine.batch_size + 1:
                yield self._wait(*ahead.popleft())
        while ahead:
            yield self._wait(*ahead.popleft())

    def _wait(self, cell: CellTask, image: Future[Image | SlideReadError]) -> tuple[CellTask, Image | SlideReadError]:
        with _timed(self._seconds, "read"):
            return cell, image.result()

    def _read(self, box: Box) -> Image | SlideReadError:
        try:
            return read_scale(self._hall.reader, self._frame.scale, box)
        except SlideReadError as error:
            return error

    def _cut(self, coarse: Region | None, cell: CellTask) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
        return None if coarse is None else coarse.cut(coarse_box(self._frame.patch_box(cell.row, cell.col)))

    def _put(self, cell: CellTask, pixels: CellPixels, failure: str | None = None) -> CellResult:
        box = self._frame.cell_box(cell.row, cell.col)
        self._canvas.put(box, pixels)
        return CellResult(cell.row, cell.col, cell.refine, quarters(pixels.uncertainty, box), failure)

    def _label_pixels(self) -> dict[int, int]:
        """Pixels by label value over the tile's cells; what has no tissue is not counted."""
        counts: Counter[int] = Counter()
        for cell in self._task.cells:
            box = self._frame.cell_box(cell.row, cell.col).relative_to(self._box)
            values, numbers = np.unique(self._canvas.labels[box.slices_yx], return_counts=True)
            counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        return dict(sorted(counts.items()))

    def _write(self) -> None:
        level, products = self._frame.mask_level, self._hall.job.products
        finest = level == 0
        if products.probabilities or not finest:
            self._hall.pyramid("probabilities").write(level, self._box, self._canvas.probabilities)
        if products.uncertainty:
            self._hall.pyramid("uncertainty").write(level, self._box, self._canvas.uncertainty)
        # The mask last: a viewer that sees a tile's labels may rely on everything else.
        self._hall.pyramid("mask").write(level, self._box, self._canvas.labels)


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
