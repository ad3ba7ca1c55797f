"""Predictors: patches of several tiles to their cells, in the calling thread on a CPU, in shared batches on a GPU.

A GPU is busy only if batches are full and the next one is ready when the last one ends. So the threads of a worker,
each with a tile of its own, put their patches into one queue, from which one thread feeds the device.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import torch

from wsi_magnet.errors import ConfigError, DeviceError, WsiMagnetError
from wsi_magnet.inference.cuda import Device, Launched, device_of
from wsi_magnet.inference.devices import one_torch_thread
from wsi_magnet.inference.engine import Engine, PatchInput
from wsi_magnet.inference.tiles import CellPixels
from wsi_magnet.planning.plan import PatchGeometry

Key = TypeVar("Key")

_LINGER_S = 0.002
"""Time that an idle device waits for another patch before it computes an incomplete batch."""

_MAX_LAUNCHED = 2
"""Batches in flight: one that computes and one whose pixels are being copied."""

_MAX_OVERTAKING = 4
"""Batches that are launched, at most, before an older one that is not full: slides at other scales fill theirs first,
but keep no tile waiting."""

_STOP = object()

_STOP_WAITING_S = 5.0


class Predictor(Protocol):
    """Runs an engine over patches; thread-safe."""

    def predict(
        self, patches: Iterable[tuple[Key, PatchInput]], geometry: PatchGeometry
    ) -> Iterator[tuple[Key, CellPixels]]:
        """Yield the cell of each patch with the patch's key, in the same order."""
        ...

    def close(self) -> None:
        """Release the device; no further patches are accepted."""
        ...


def predictor_for(engine: Engine) -> Predictor:
    """The predictor for the engine's kind of device."""
    if engine.device.type == "cpu" or not engine.shares_batches:
        return DirectPredictor(engine)
    return BatchingPredictor(engine, device_of(engine))


class DirectPredictor:
    """Computes in the calling thread; on a CPU the workers' threads are the parallelism."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def predict(
        self, patches: Iterable[tuple[Key, PatchInput]], geometry: PatchGeometry
    ) -> Iterator[tuple[Key, CellPixels]]:
        """See `Predictor.predict`."""
        waiting = iter(patches)
        while batch := list(islice(waiting, self._engine.batch_size)):
            with one_torch_thread():
                cells = list(self._engine.segment([patch for _, patch in batch], geometry))
            yield from zip((key for key, _ in batch), cells, strict=True)

    def close(self) -> None:
        """No resources to release."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """A patch in the queue, and the future of its cell."""

    patch: PatchInput
    geometry: PatchGeometry
    cell: Future[CellPixels]


@dataclass(frozen=True, slots=True, eq=False)
class _OpenBatch:
    """A batch that is not full yet."""

    requests: list[_Request]
    opened_at: int
    """Batches that were launched before."""


@dataclass(frozen=True, slots=True, eq=False)
class _InFlight:
    """A batch on the device."""

    requests: list[_Request]
    launched: Launched


class BatchingPredictor:
    """Joins the patches of all threads to full batches of one geometry, and keeps the device a batch ahead."""

    def __init__(self, engine: Engine, device: Device) -> None:
        self._engine = engine
        self._device = device
        self._requests: queue.Queue[_Request | object] = queue.Queue()
        self._open: dict[PatchGeometry, _OpenBatch] = {}  # in the order of `opened_at`
        self._in_flight: deque[_InFlight] = deque()
        self._launches = 0
        self._state = threading.Lock()
        """Held while a request is queued, and while the queue is closed: no request is queued afterwards."""
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def predict(
        self, patches: Iterable[tuple[Key, PatchInput]], geometry: PatchGeometry
    ) -> Iterator[tuple[Key, CellPixels]]:
        """See `Predictor.predict`. Raises DeviceError where the device has failed, now or before."""
        waiting: deque[tuple[Key, Future[CellPixels]]] = deque()
        for key, patch in patches:
            waiting.append((key, self._submit(patch, geometry)))
            while waiting and waiting[0][1].done():
                first, cell = waiting.popleft()
                yield first, cell.result()
        for key, cell in waiting:
            yield key, cell.result()

    def close(self) -> None:
        """Finish the requests that are queued, then stop."""
        with self._state:
            self._closed = True
            self._requests.put(_STOP)
        self._thread.join(_STOP_WAITING_S)

    def _submit(self, patch: PatchInput, geometry: PatchGeometry) -> Future[CellPixels]:
        request = _Request(patch, geometry, Future())
        with self._state:
            if self._failure is not None:
                raise self._translated(self._failure, request)
            if self._closed:
                raise RuntimeError("the predictor is closed")
            self._requests.put(request)
        return request.cell

    def _run(self) -> None:
        """Main function of the device's thread: whatever ends it, no request is left without an answer."""
        try:
            self._feed()
        except BaseException as error:  # after an asynchronous CUDA error `done()` raises first
            self._fail_all(error)

    def _feed(self) -> None:
        """Launch batches and deliver their cells until the predictor is closed."""
        while (request := self._next()) is not _STOP:
            if isinstance(request, _Request):
                self._add(request)
            elif self._open and all(one.launched.done() for one in self._in_flight):
                self._launch_oldest()  # better an incomplete batch than an idle device
            while self._in_flight and (len(self._in_flight) > _MAX_LAUNCHED or self._in_flight[0].launched.done()):
                self._deliver()
        while self._open:
            self._launch_oldest()
        while self._in_flight:
            self._deliver()

    def _next(self) -> _Request | object | None:
        """The next request or _STOP; None after a short wait while a batch is open or in flight."""
        idle = not (self._open or self._in_flight)
        with suppress(queue.Empty):
            return self._requests.get(timeout=None if idle else _LINGER_S)
        return None

    def _add(self, request: _Request) -> None:
        """Put a request into the batch of its geometry; launch that batch when it is full, and overdue ones."""
        batch = self._open.setdefault(request.geometry, _OpenBatch([], self._launches))
        batch.requests.append(request)
        if len(batch.requests) == self._engine.batch_size:
            self._launch(request.geometry)
        if self._open and self._launches - next(iter(self._open.values())).opened_at >= _MAX_OVERTAKING:
            self._launch_oldest()

    def _launch_oldest(self) -> None:
        self._launch(next(iter(self._open)))

    def _launch(self, geometry: PatchGeometry) -> None:
        """Start the open batch of a geometry."""
        batch = self._open[geometry].requests
        with self._errors_of(batch):
            images, coarse = self._engine.batch_of([request.patch for request in batch])
            self._in_flight.append(_InFlight(batch, self._device.launch(images, coarse, geometry)))
        del self._open[geometry]
        self._launches += 1

    def _deliver(self) -> None:
        """Set the cells of the oldest batch in flight."""
        batch = self._in_flight[0]
        with self._errors_of(batch.requests):
            cells = list(self._engine.cells(batch.launched.results(), len(batch.requests)))
            for request, cell in zip(batch.requests, cells, strict=True):
                request.cell.set_result(cell)
        self._in_flight.popleft()

    @contextmanager
    def _errors_of(self, batch: Sequence[_Request]) -> Iterator[None]:
        """Context in which an error is that of a batch alone, unless the device is lost by it: then it is raised."""
        try:
            yield
        except Exception as error:
            if not self._device.survives(error):
                raise
            self._fail(batch, error)

    def _fail(self, requests: Iterable[_Request], error: BaseException) -> None:
        """Answer all requests that have no answer yet with the error."""
        for request in requests:
            if not request.cell.done():
                request.cell.set_exception(self._translated(error, request))

    def _fail_all(self, error: BaseException) -> None:
        """Fail every request: in flight, in a batch, in the queue; later ones fail with the same error."""
        with self._state:
            self._failure = error
            queued = [one for one in _drained(self._requests) if isinstance(one, _Request)]
        for requests in (*(b.requests for b in self._in_flight), *(b.requests for b in self._open.values()), queued):
            self._fail(requests, error)
        self._in_flight.clear()
        self._open.clear()

    def _translated(self, error: BaseException, request: _Request) -> BaseException:
        """The error in this program's words where it is the device's; its cause is the original one."""
        if isinstance(error, torch.OutOfMemoryError) or isinstance(error.__context__, torch.OutOfMemoryError):
            own: WsiMagnetError = ConfigError(
                f"the GPU's memory does not hold a batch of {self._engine.batch_size} patches of "
                f"{request.geometry.patch_px} x {request.geometry.patch_px} pixels; "
                "choose a smaller batch size, or the device cpu"
            )
        elif self._failure is None or isinstance(error, WsiMagnetError):
            return error
        else:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            own = DeviceError(
                f"{self._engine.device} failed ({reason}), and this process cannot use it any more; "
                "the same command resumes"
            )
        own.__cause__ = error
        return own


def _drained(requests: queue.Queue[_Request | object]) -> Iterator[_Request | object]:
    with suppress(queue.Empty):
        while True:
            yield requests.get_nowait()
