"""A device that computes while the next batch's pixels come and the last one's results go.

Each batch has a slot: memory at both ends that copies need not wait for. On CUDA three streams work side by side (up,
compute, down), and the computation of a frame is recorded once as a graph and then replayed: hundreds of small launches
would otherwise wait for Python, whose one lock all threads of a worker share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsi_magnet.engine import Engine, Results
from wsi_magnet.plan import Frame

Pixels = npt.NDArray[np.uint8]

SLOTS = 3
"""One comes, one computes, one goes."""

_WARM_UPS = 2
"""Before a recording: libraries choose their algorithms and take their workspace then."""


class Launched(Protocol):
    """A batch under way."""

    def results(self) -> Results:
        """Its cells, in memory that stays as it is until `SLOTS` more batches are launched; waits for them."""
        ...


class Device(Protocol):
    """Where batches are computed; used by one thread."""

    def launch(self, images: Pixels, coarse: Pixels | None, frame: Frame) -> Launched:
        """Begin a batch: uint8 (N, P, P, 3), and (N, C, W / 2 + 2, W / 2 + 2) but for the coarsest scale."""
        ...


def device_of(engine: Engine) -> Device:
    """The engine's, by its kind."""
    return CudaDevice(engine) if engine.device.type == "cuda" else PlainDevice(engine)


@dataclass(frozen=True, slots=True)
class _Ready:
    found: Results

    def results(self) -> Results:
        return self.found


class PlainDevice:
    """Any device, one batch after the other: what a GPU's results are held against."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def launch(self, images: Pixels, coarse: Pixels | None, frame: Frame) -> Launched:
        """See `Device.launch`."""
        there = self._engine.device
        with torch.inference_mode():
            inputs = [None if a is None else torch.from_numpy(a).to(there) for a in (images, coarse)]
            assert inputs[0] is not None
            return _Ready(self._engine.compute(inputs[0], inputs[1], frame))


@dataclass(eq=False)
class _Slot:
    """A batch's memory at both ends, and how far it is."""

    here: Sequence[Tensor]
    there: Sequence[Tensor]
    found_there: Results
    found_here: Results
    up: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    computed: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    down: torch.cuda.Event = field(default_factory=torch.cuda.Event)

    def results(self) -> Results:
        self.down.synchronize()
        return self.found_here


class _Recorded:
    """A frame's computation, recorded as a graph, with its slots."""

    def __init__(self, engine: Engine, frame: Frame, shapes: Sequence[torch.Size], stream: torch.cuda.Stream) -> None:
        device = engine.device
        self.inputs = [torch.zeros(shape, dtype=torch.uint8, device=device) for shape in shapes]
        coarse = self.inputs[1] if len(self.inputs) > 1 else None
        self.graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    engine.compute(self.inputs[0], coarse, frame)
            torch.cuda.synchronize(device)
            with torch.cuda.graph(self.graph, stream=stream):
                self.found = engine.compute(self.inputs[0], coarse, frame)
            self.slots = [self._slot() for _ in range(SLOTS)]

    def _slot(self) -> _Slot:
        here = [torch.zeros(t.shape, dtype=torch.uint8, pin_memory=True) for t in self.inputs]
        found_here = Results(*(torch.zeros(t.shape, dtype=torch.uint8, pin_memory=True) for t in self.found))
        found_there = Results(*(torch.zeros_like(t) for t in self.found))
        return _Slot(here, [torch.zeros_like(t) for t in self.inputs], found_there, found_here)


class CudaDevice:
    """A CUDA device; copies both ways go on while it computes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with torch.cuda.device(engine.device):
            self._up, self._computing, self._down = (torch.cuda.Stream() for _ in range(3))
        self._recorded: dict[Frame, _Recorded] = {}
        self._numbers = count()

    def launch(self, images: Pixels, coarse: Pixels | None, frame: Frame) -> Launched:
        """See `Device.launch`."""
        inputs = [torch.from_numpy(a) for a in (images, coarse) if a is not None]
        with torch.inference_mode(), torch.cuda.device(self._engine.device):
            if frame not in self._recorded:
                shapes = [one.shape for one in inputs]
                self._recorded = {frame: _Recorded(self._engine, frame, shapes, self._computing)}  # one at a time
            recorded = self._recorded[frame]
            slot = recorded.slots[next(self._numbers) % SLOTS]
            slot.down.synchronize()
            self._send(slot, inputs)
            self._replay(recorded, slot)
            self._fetch(slot)
        return slot

    def _send(self, slot: _Slot, inputs: Sequence[Tensor]) -> None:
        with torch.cuda.stream(self._up):
            for one, here, there in zip(inputs, slot.here, slot.there, strict=True):
                here.copy_(one)
                there.copy_(here, non_blocking=True)
            slot.up.record()

    def _replay(self, recorded: _Recorded, slot: _Slot) -> None:
        with torch.cuda.stream(self._computing):
            slot.up.wait()
            for there, static in zip(slot.there, recorded.inputs, strict=True):
                static.copy_(there)
            recorded.graph.replay()
            for static, there in zip(recorded.found, slot.found_there, strict=True):
                there.copy_(static)
            slot.computed.record()

    def _fetch(self, slot: _Slot) -> None:
        with torch.cuda.stream(self._down):
            slot.computed.wait()
            for there, here in zip(slot.found_there, slot.found_here, strict=True):
                here.copy_(there, non_blocking=True)
            slot.down.record()
