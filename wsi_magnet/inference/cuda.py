"""A device that computes while the next batch's pixels come and the last one's results go.

Each batch has a slot: memory on the device that copies go by, apart from what is computed on. On CUDA three streams
work side by side (up, compute, down), and the computation of a frame is recorded once as a graph and then replayed:
hundreds of small launches would otherwise wait for Python, whose one lock all threads of a worker share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from wsi_magnet.inference.engine import Engine, Results
from wsi_magnet.planning.plan import ScaleLayout

SLOTS = 3
"""One comes, one computes, one goes."""

_WARM_UPS = 2
"""Before a recording: libraries choose their algorithms and take their workspace then."""


class Launched(Protocol):
    """A batch under way."""

    def results(self) -> Results:
        """Its cells, in this machine's memory; waits for them."""
        ...

    def done(self) -> bool:
        """True where nobody would have to wait."""
        ...


class Device(Protocol):
    """Where batches are computed; used by one thread."""

    def launch(self, images: Tensor, coarse: Tensor | None, frame: ScaleLayout) -> Launched:
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

    def done(self) -> bool:
        return True


class PlainDevice:
    """Any device, one batch after the other: what a GPU's results are held against."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def launch(self, images: Tensor, coarse: Tensor | None, frame: ScaleLayout) -> Launched:
        """See `Device.launch`."""
        there = self._engine.device
        with torch.inference_mode():
            maps = None if coarse is None else coarse.to(there)
            return _Ready(self._engine.compute(images.to(there), maps, frame))


@dataclass(frozen=True, slots=True)
class _Coming:
    """Results on their way."""

    found: Results
    down: torch.cuda.Event

    def results(self) -> Results:
        self.down.synchronize()
        return self.found

    def done(self) -> bool:
        return bool(self.down.query())


@dataclass(eq=False)
class _Slot:
    """A batch's memory on the device, apart from what is computed on, and when it was read last."""

    inputs: Sequence[Tensor]
    found: Results
    up: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    computed: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    down: torch.cuda.Event = field(default_factory=torch.cuda.Event)


class _Recorded:
    """A frame's computation, recorded as a graph, with its slots."""

    def __init__(self, engine: Engine, frame: ScaleLayout, inputs: Sequence[Tensor], stream: torch.cuda.Stream) -> None:
        device = engine.device
        self.inputs = [torch.zeros(one.shape, dtype=torch.uint8, device=device) for one in inputs]
        coarse = self.inputs[1] if len(self.inputs) > 1 else None
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                engine.compute(self.inputs[0], coarse, frame)
        torch.cuda.synchronize(device)
        with torch.cuda.graph(self.graph, stream=stream):
            self.found = engine.compute(self.inputs[0], coarse, frame)
        self.slots = [
            _Slot([torch.zeros_like(t) for t in self.inputs], Results(*map(torch.zeros_like, self.found)))
            for _ in range(SLOTS)
        ]


class CudaDevice:
    """A CUDA device; copies both ways go on while it computes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with torch.cuda.device(engine.device):
            self._up, self._computing, self._down = (torch.cuda.Stream() for _ in range(3))
        self._recorded: dict[ScaleLayout, _Recorded] = {}
        self._numbers = count()

    def launch(self, images: Tensor, coarse: Tensor | None, frame: ScaleLayout) -> Launched:
        """See `Device.launch`."""
        inputs = [one for one in (images, coarse) if one is not None]
        with torch.inference_mode(), torch.cuda.device(self._engine.device):
            if frame not in self._recorded:
                self._recorded.clear()  # passes follow each other: one at a time is enough
                self._recorded[frame] = _Recorded(self._engine, frame, inputs, self._computing)
            recorded = self._recorded[frame]
            slot = recorded.slots[next(self._numbers) % SLOTS]
            self._send(slot, inputs)
            self._replay(recorded, slot)
            return self._fetch(slot)

    def _send(self, slot: _Slot, inputs: Sequence[Tensor]) -> None:
        with torch.cuda.stream(self._up):
            slot.computed.wait()  # of the batch that had the slot before
            for here, there in zip(inputs, slot.inputs, strict=True):
                there.copy_(here, non_blocking=True)
            slot.up.record()

    def _replay(self, recorded: _Recorded, slot: _Slot) -> None:
        with torch.cuda.stream(self._computing):
            slot.up.wait()
            for there, used in zip(slot.inputs, recorded.inputs, strict=True):
                used.copy_(there)
            recorded.graph.replay()
            slot.down.wait()  # likewise
            for used, there in zip(recorded.found, slot.found, strict=True):
                there.copy_(used)
            slot.computed.record()

    def _fetch(self, slot: _Slot) -> Launched:
        # Memory of its own for each batch: tiles put its cells in their places at their leisure.
        found = Results(*(torch.empty(t.shape, dtype=torch.uint8, pin_memory=True) for t in slot.found))
        with torch.cuda.stream(self._down):
            slot.computed.wait()
            for there, here in zip(slot.found, found, strict=True):
                here.copy_(there, non_blocking=True)
            slot.down.record()
        arrived = torch.cuda.Event()
        arrived.record(self._down)
        return _Coming(found, arrived)
