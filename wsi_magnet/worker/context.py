"""What a worker keeps open: networks for all slides that are segmented with them, and for each slide what it is read
from and written to; shared by the worker's threads.
"""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cache, cached_property

from wsi_magnet.config import Precision, RunConfig
from wsi_magnet.errors import BundleError, ResultBusyError, SlideOpenError
from wsi_magnet.inference.batching import predictor_for
from wsi_magnet.inference.devices import resolve_device
from wsi_magnet.inference.engine import Engine
from wsi_magnet.nets.bundle import Bundle, load_bundle
from wsi_magnet.planning.plan import ScaleLayout
from wsi_magnet.planning.tissue import TissueMap
from wsi_magnet.results.folder import Products, ResultFolder
from wsi_magnet.results.pyramid import Pyramid
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import SlideReader
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import to_location
from wsi_magnet.system import cpu_threads
from wsi_magnet.worker.cache import ResourceCache

READ_THREADS = 4
"""Threads of a worker that read and decode, at most; where they feed a GPU, at least. Decoding is the cheaper half, so
that few keep a processor's networks fed, and each has OpenSlide's table of the slide's tiles to itself."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """All that a worker must know to run any tile of a slide; frozen, small, and the key of what workers keep."""

    slide: str
    slide_identity: str
    bundle: str | None
    bundle_sha256: str
    folder: str
    config: RunConfig
    frames: tuple[ScaleLayout, ...]
    products: Products
    device: str
    tissue_downsample_xy: tuple[float, float] | None
    """Of the tissue map that lies in the folder; None where everything is analysed."""

    @property
    def weights(self) -> Weights:
        """What its tiles are computed with."""
        config = self.config
        return Weights(self.bundle, self.bundle_sha256, self.device, config.batch_size, config.precision)

    def with_precision(self, precision: Precision) -> RunSpec:
        """The same job, in that arithmetic."""
        return replace(self, config=replace(self.config, precision=precision))


@dataclass(frozen=True, slots=True)
class Weights:
    """Which networks a worker computes with, and how."""

    bundle: str | None
    sha256: str
    device: str
    batch_size: int | None
    precision: Precision


class Networks:
    """A bundle's networks on a device, for the tiles of any slide."""

    def __init__(self, weights: Weights) -> None:
        """Raises BundleError, ConfigError."""
        device = resolve_device(weights.device)
        bundle = _load_bundle(weights)
        config = RunConfig(batch_size=weights.batch_size, precision=weights.precision)
        self.engine = Engine(bundle, device, config)
        self.predictor = predictor_for(self.engine)
        self.background = bundle.spec.background_index

    def close(self) -> None:
        """Let go of the device."""
        self.predictor.close()


class WorkerContext:
    """What a worker keeps open for one job; shared by its threads."""

    ahead: int
    """Patches of a tile that are read before they are needed."""

    def __init__(self, job: RunSpec) -> None:
        """Raises SlideOpenError, BundleError, ConfigError."""
        self.job = job
        with ExitStack() as opened:
            self._networks = opened.enter_context(_networks.borrow(job.weights))
            self.reader = _open_checked(job)
            opened.callback(self.reader.close)
            self._opened = opened.pop_all()
        self.engine, self.predictor = self._networks.engine, self._networks.predictor
        self.background = self._networks.background
        self.readers = _readers(self.engine.device.type)
        self.ahead = self.engine.batch_size + 1
        self._folder = ResultFolder(to_location(job.folder))
        self._pyramids = pyramids_of(job)

    @cached_property
    def tissue(self) -> TissueMap | None:
        """The tissue map of the result folder; None where everything is analysed."""
        if self.job.tissue_downsample_xy is None:
            return None
        with storage_errors(self._folder.tissue_png):
            return TissueMap.load(self._folder.tissue_png, self.job.tissue_downsample_xy)

    def pyramid(self, product: str) -> Pyramid:
        """The image of that name: "mask", "probabilities" or "uncertainty"."""
        return self._pyramids[product]

    def require_turn(self, turn: str) -> None:
        """Raises ResultBusyError where the work has gone on without us, as it does when a worker was stopped or cut off
        for long: what it still has in hand is of a scale that is done, or of a run that is over.
        """
        for pause_s in _TURN_PAUSES_S:
            time.sleep(pause_s)
            if self._folder.turn() == turn:
                return
        raise ResultBusyError(f"{self._folder.path}: the run has gone on without this worker; its tile is not written")

    def close(self) -> None:
        """Let go of the slide and the networks."""
        self._opened.close()


_TURN_PAUSES_S = (0.0, 0.5, 3.0)
"""A shared file system may show a file as it was seconds ago."""

_HALLS_KEPT, _NETWORKS_KEPT = 4, 1
"""What nobody uses now. A worker mostly has tiles of the first slides of a queue."""

_networks: ResourceCache[Weights, Networks] = ResourceCache(Networks, idle=_NETWORKS_KEPT)
_halls: ResourceCache[RunSpec, WorkerContext] = ResourceCache(WorkerContext, idle=_HALLS_KEPT)


def in_hall(job: RunSpec) -> AbstractContextManager[WorkerContext]:
    """The worker's hall for a job, which stays open within. Raises SlideOpenError, BundleError, ConfigError."""
    return _halls.borrow(job)


def close_hall(job: RunSpec) -> None:
    """Let go of what this process keeps for a job alone."""
    _halls.discard(job)


def pyramids_of(job: RunSpec) -> dict[str, Pyramid]:
    """The images of a job's result, by name."""
    return job.products.pyramids(to_location(job.folder))


@cache
def _readers(device: str) -> ThreadPoolExecutor:
    """Threads that read and decode for all tiles of the process."""
    bound = min if device == "cpu" else max
    return ThreadPoolExecutor(bound(READ_THREADS, cpu_threads()), thread_name_prefix="read")


def _open_checked(job: RunSpec) -> SlideReader:
    reader = open_here(job.slide, job.config.mpp)
    if reader.info.identity != job.slide_identity:
        reader.close()
        raise SlideOpenError(
            f"{job.slide} on {socket.gethostname()} is not the file that the run was planned for; "
            "was it replaced meanwhile?"
        )
    return reader


def open_here(slide: str, mpp: float | None) -> SlideReader:
    """Open a slide on a worker. Raises SlideOpenError that says on which host, ConfigError."""
    try:
        return open_slide(slide, mpp=mpp)
    except SlideOpenError as error:
        raise SlideOpenError(f"worker on {socket.gethostname()}: {error}") from error


def _load_bundle(weights: Weights) -> Bundle:
    host = socket.gethostname()
    try:
        bundle = load_bundle(weights.bundle)
    except BundleError as error:
        raise BundleError(f"worker on {host}: {error}") from error
    if bundle.sha256 != weights.sha256:
        raise BundleError(
            f"{bundle.path} on {host} is another bundle than the client's "
            f"({bundle.sha256[:12]} and {weights.sha256[:12]}); make them the same file"
        )
    return bundle
