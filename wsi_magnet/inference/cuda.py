"""Devices that compute a batch while the next one's pixels are copied up and the last one's results down.

Each batch has a slot: memory on the device for its copies, apart from the memory of the computation. On CUDA three
streams work side by side (up, compute, down), and the computation of a geometry is recorded once as a CUDA graph and
then replayed: hundreds of small launches would otherwise wait for Python's lock, which all threads of a worker share.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from wsi_magnet.inference.engine import Engine, Results
from wsi_magnet.planning.plan import PatchGeometry

Graph = TypeVar("Graph")

SLOTS = 3
"""Batches of one geometry in flight: one is copied up, one computes, one is copied down."""

MAX_GRAPHS = 8
"""Graphs kept. A geometry belongs to a scale, whatever the slide, and ladders have about four scales. The graphs share
the memory of the computation; a further one costs the slots, about a quarter of a GiB at 16 patches of 768 x 768."""

_WARM_UPS = 2
"""Computations before a recording, in which libraries choose their algorithms and take their workspace."""

_RECORDING = threading.Lock()
"""Held while any thread records a graph or waits for a whole device: CUDA refuses the second during the first."""


class Launched(Protocol):
    """A batch in flight."""

    def results(self) -> Results:
        """Wait for the cells; returns them in host memory. Raises RuntimeError after an error on the device."""
        ...

    def done(self) -> bool:
        """True if `results` would not wait. Raises RuntimeError after an error on the device."""
        ...


class Device(Protocol):
    """A device that computes batches; used by one thread."""

    def launch(self, images: Tensor, coarse: Tensor | None, geometry: PatchGeometry) -> Launched:
        """Start a batch: uint8 (N, P, P, 3), and (N, C, W / 2 + 2, W / 2 + 2) except at the coarsest scale."""
        ...

    def survives(self, error: Exception) -> bool:
        """True if the device can compute further batches after this error of one batch."""
        ...


def device_of(engine: Engine) -> Device:
    """The device for the engine's kind."""
    return CudaDevice(engine) if engine.device.type == "cuda" else PlainDevice(engine)


@dataclass(frozen=True, slots=True)
class _Ready:
    found: Results

    def results(self) -> Results:
        return self.found

    def done(self) -> bool:
        return True


class PlainDevice:
    """Any device, one batch after the other: the reference for a GPU's results."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def launch(self, images: Tensor, coarse: Tensor | None, geometry: PatchGeometry) -> Launched:
        """See `Device.launch`."""
        device = self._engine.device
        with torch.inference_mode():
            maps = None if coarse is None else coarse.to(device)
            return _Ready(self._engine.compute(images.to(device), maps, geometry))

    def survives(self, error: Exception) -> bool:
        """See `Device.survives`."""
        return True


@dataclass(frozen=True, slots=True)
class _Copying:
    """Results that are being copied to the host."""

    found: Results
    down: torch.cuda.Event

    def results(self) -> Results:
        self.down.synchronize()
        return self.found

    def done(self) -> bool:
        return bool(self.down.query())


@dataclass(eq=False)
class _Slot:
    """Device memory for the copies of a batch, and an event for the last use of each."""

    inputs: Sequence[Tensor]
    found: Results
    up: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    computed: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    down: torch.cuda.Event = field(default_factory=torch.cuda.Event)


class _Recorded:
    """The computation of a geometry, recorded as a graph, with its slots.

    beside: another computation of the same stream, with which it shares memory: they never run at the same time, and
    the results of a replay are copied into a slot before the next one begins.
    """

    def __init__(
        self,
        engine: Engine,
        geometry: PatchGeometry,
        inputs: Sequence[Tensor],
        stream: torch.cuda.Stream,
        beside: _Recorded | None,
    ) -> None:
        device = engine.device
        self.inputs = [torch.zeros(one.shape, dtype=torch.uint8, device=device) for one in inputs]
        coarse = self.inputs[1] if len(self.inputs) > 1 else None
        self.graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(device))  # the zeros are written there
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                engine.compute(self.inputs[0], coarse, geometry)
        torch.cuda.synchronize(device)
        pool = None if beside is None else beside.graph.pool()
        # "thread_local": another thread may allocate memory of the device meanwhile, as it does to load networks.
        with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.found = engine.compute(self.inputs[0], coarse, geometry)
        self.slots = cycle(
            [
                _Slot([torch.empty_like(t) for t in self.inputs], Results(*map(torch.empty_like, self.found)))
                for _ in range(SLOTS)
            ]
        )
        # The slots' memory may have been freed a moment ago on the current stream, and the copies are on others.
        torch.cuda.synchronize(device)


class GraphCache(Generic[Graph]):
    """LRU cache of recorded computations, one a geometry.

    A graph is dropped only after the device has finished everything that was launched: batches in flight still use its
    memory, and the allocator would hand that memory out again at once.
    """

    def __init__(self, record: Callable[[PatchGeometry, Sequence[Tensor]], Graph], finish: Callable[[], None]) -> None:
        """record: records a computation for inputs of these shapes. finish: waits for all launched work."""
        self._record, self._finish = record, finish
        self._graphs: OrderedDict[PatchGeometry, Graph] = OrderedDict()

    def get(self, geometry: PatchGeometry, inputs: Sequence[Tensor]) -> Graph:
        """The graph of a geometry, recorded at its first use."""
        if geometry not in self._graphs:
            if len(self._graphs) == MAX_GRAPHS:
                self._finish()
                self._graphs.popitem(last=False)
            self._graphs[geometry] = self._record(geometry, inputs)
        self._graphs.move_to_end(geometry)
        return self._graphs[geometry]

    def newest(self) -> Graph | None:
        """The graph that was used last; None where there is none."""
        return next(reversed(self._graphs.values()), None)


class CudaDevice:
    """A CUDA device; copies both ways continue while it computes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with torch.cuda.device(engine.device):
            self._up, self._computing, self._down = (torch.cuda.Stream() for _ in range(3))
        self._graphs: GraphCache[_Recorded] = GraphCache(self._record, self._finish)

    def launch(self, images: Tensor, coarse: Tensor | None, geometry: PatchGeometry) -> Launched:
        """See `Device.launch`."""
        inputs = [one for one in (images, coarse) if one is not None]
        with torch.inference_mode(), torch.cuda.device(self._engine.device):
            recorded = self._graphs.get(geometry, inputs)
            slot = next(recorded.slots)
            self._send(slot, inputs)
            self._replay(recorded, slot)
            return self._fetch(slot)

    def survives(self, error: Exception) -> bool:
        """See `Device.survives`. After an error of CUDA every later call fails; a lack of memory passes."""
        return isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError)

    def _record(self, geometry: PatchGeometry, inputs: Sequence[Tensor]) -> _Recorded:
        self._finish()  # the networks were loaded in another thread's stream
        try:
            with _RECORDING:
                return _Recorded(self._engine, geometry, inputs, self._computing, self._graphs.newest())
        except BaseException:
            with suppress(RuntimeError):
                self._finish()  # a computation before the recording may still use what is freed now
            raise

    def _finish(self) -> None:
        """Wait for everything that was launched."""
        with _RECORDING:
            torch.cuda.synchronize(self._engine.device)

    def _send(self, slot: _Slot, inputs: Sequence[Tensor]) -> None:
        with torch.cuda.stream(self._up):
            slot.computed.wait()  # of the batch that used the slot before
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
        # Memory of its own for each batch: tiles place its cells whenever they get to it.
        found = Results(*(torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in slot.found))
        with torch.cuda.stream(self._down):
            slot.computed.wait()
            for there, here in zip(slot.found, found, strict=True):
                here.copy_(there, non_blocking=True)
            slot.down.record()
        arrived = torch.cuda.Event()
        arrived.record(self._down)
        return _Copying(found, arrived)
