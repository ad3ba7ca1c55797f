"""Patches of several tiles to their cells: in the caller's thread on a processor, in batches of all threads on a GPU.

A GPU is only busy where batches are full and the next one waits when it ends. So the threads of a worker, each with a
tile of its own, put their patches into one queue, and a thread of its own feeds the device from it.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import torch

from wsi_magnet.errors import ConfigError
from wsi_magnet.inference.cuda import Device, Launched, device_of
from wsi_magnet.inference.engine import Engine, PatchInput, one_torch_thread
from wsi_magnet.inference.tiles import CellPixels
from wsi_magnet.planning.plan import ScaleLayout

Key = TypeVar("Key")

_LINGER_S = 0.002
"""How long an idle device waits for the next patch before it computes what there is."""

_AHEAD = 2
"""Batches under way: one that computes and one whose pixels are on their way."""

_STOP = object()

_STOP_WAITING_S = 5.0


class Predictor(Protocol):
    """Runs an engine over patches; safe to use from several threads."""

    def analyse(
        self, patches: Iterable[tuple[Key, PatchInput]], frame: ScaleLayout
    ) -> Iterator[tuple[Key, CellPixels]]:
        """The cell of each patch, under the patch's key, in the same order."""
        ...

    def close(self) -> None:
        """Let go of the device; nothing is asked of it afterwards."""
        ...


def predictor_for(engine: Engine) -> Predictor:
    """The one that suits the engine's device."""
    return DirectPredictor(engine) if engine.device.type == "cpu" else BatchingPredictor(engine, device_of(engine))


class DirectPredictor:
    """Computes in the thread that asks, which is how processors' threads share the work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def analyse(
        self, patches: Iterable[tuple[Key, PatchInput]], frame: ScaleLayout
    ) -> Iterator[tuple[Key, CellPixels]]:
        """See `Predictor.analyse`."""
        waiting = iter(patches)
        while batch := list(islice(waiting, self._engine.batch_size)):
            with one_torch_thread():
                cells = list(self._engine.segment([patch for _, patch in batch], frame))
            yield from zip((key for key, _ in batch), cells, strict=True)

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A patch in the queue."""

    patch: PatchInput
    frame: ScaleLayout
    answer: Future[CellPixels]


class BatchingPredictor:
    """Gathers the patches of all threads into full batches, and keeps the device a batch ahead."""

    def __init__(self, engine: Engine, device: Device) -> None:
        self._engine = engine
        self._device = device
        self._asked: queue.Queue[_Asked | object] = queue.Queue()
        self._thread = threading.Thread(target=self._feed, name="device", daemon=True)
        self._thread.start()

    def analyse(
        self, patches: Iterable[tuple[Key, PatchInput]], frame: ScaleLayout
    ) -> Iterator[tuple[Key, CellPixels]]:
        """See `Predictor.analyse`."""
        if not self._thread.is_alive():
            raise RuntimeError("the device was let go of")
        under_way: deque[tuple[Key, Future[CellPixels]]] = deque()
        for key, patch in patches:
            asked = _Asked(patch, frame, Future())
            self._asked.put(asked)
            under_way.append((key, asked.answer))
            while under_way and under_way[0][1].done():
                first, answer = under_way.popleft()
                yield first, answer.result()
        for key, answer in under_way:
            yield key, answer.result()

    def close(self) -> None:
        """Answer what was asked, then stop."""
        self._asked.put(_STOP)
        self._thread.join(_STOP_WAITING_S)

    def _feed(self) -> None:
        """The device's own thread."""
        batch: list[_Asked] = []
        under_way: deque[tuple[list[_Asked], Launched]] = deque()
        while (asked := self._next(idle=not (batch or under_way))) is not _STOP:
            if isinstance(asked, _Asked):
                if batch and asked.frame != batch[0].frame:
                    batch = self._launch(batch, under_way)
                batch.append(asked)
            # A batch that is not full is worth its while where the device would have nothing else to do.
            if len(batch) == self._engine.batch_size or (asked is None and all(one.done() for _, one in under_way)):
                batch = self._launch(batch, under_way)
            while under_way and (under_way[0][1].done() or len(under_way) > _AHEAD):
                self._answer(*under_way.popleft())
        self._launch(batch, under_way)
        for one in under_way:
            self._answer(*one)

    def _next(self, *, idle: bool) -> _Asked | object | None:
        """What is asked next, or to stop; None if nothing came for a while, but not where there is nothing to do."""
        with suppress(queue.Empty):
            return self._asked.get(timeout=None if idle else _LINGER_S)
        return None

    def _launch(self, batch: list[_Asked], under_way: deque[tuple[list[_Asked], Launched]]) -> list[_Asked]:
        """Begin a batch; returns the next one, empty."""
        if batch:
            try:
                images, coarse = self._engine.batch_of([asked.patch for asked in batch])
                under_way.append((batch, self._device.launch(images, coarse, batch[0].frame)))
            except Exception as error:  # whatever it is, it is for those who asked; this thread goes on
                _refuse(batch, error)
        return []

    def _answer(self, batch: list[_Asked], launched: Launched) -> None:
        try:
            cells = list(self._engine.cells(launched.results(), len(batch)))
        except Exception as error:  # the same
            _refuse(batch, error)
            return
        for asked, cell in zip(batch, cells, strict=True):
            asked.answer.set_result(cell)


def _refuse(batch: list[_Asked], error: Exception) -> None:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        side = batch[0].patch.image.shape[0]
        error = ConfigError(
            f"the GPU's memory does not hold a batch of {len(batch)} patches of {side} x {side} pixels; "
            "pass a smaller --batch-size, or --device cpu"
        )
    for asked in batch:
        asked.answer.set_exception(error)
