"""Worker context: the slide, networks and images of a run, opened once for all tiles and shared by a worker's threads.

Networks have a cache of their own, since the slides of a cohort share them.
"""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch

from wsi_magnet.config import MAGNET, Precision, RunConfig
from wsi_magnet.errors import BundleError, ResultBusyError, SlideOpenError
from wsi_magnet.geometry import ceil_div
from wsi_magnet.inference.batching import predictor_for
from wsi_magnet.inference.devices import resolve_device
from wsi_magnet.inference.engine import Engine
from wsi_magnet.methods.registry import course_of
from wsi_magnet.nets.bundle import Bundle, load_bundle
from wsi_magnet.nets.spec import single_scale
from wsi_magnet.planning.areas import Areas
from wsi_magnet.planning.plan import ScaleLayout
from wsi_magnet.planning.tissue import TissueMap, TissueReference
from wsi_magnet.results.folder import Products, ResultFolder
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import SlideReader
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location
from wsi_magnet.system import cpu_threads
from wsi_magnet.worker.cache import ResourceCache

LEAST_READ_THREADS = 4
"""Least number of threads of a process that read and decode patches, up to the number of cores. Each keeps a table of
the slide's tiles in OpenSlide."""

_IDLE_CONTEXTS, _IDLE_NETWORKS = 4, 1
"""Contexts and networks that are kept without a user. Most tiles of a worker are of the first slides of a queue."""

_IDLE_DECODED_BYTES = 256 << 20
"""Decoded pixels in idle contexts: four plain images of 21 megapixels. A larger one is kept only while it is the most
recently used one, since the next tile is most likely its own, and decoding it again takes seconds."""

_TOKEN_PAUSES_S = (0.0, 0.5, 3.0)
"""Pauses before reading the token again: a shared file system may show an old version of a file for seconds."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Description of a run for workers; small, and the key of its worker context."""

    slide: str
    slide_identity: str
    bundle: str | None
    bundle_sha256: str
    folder: Location
    """The result folder."""
    config: RunConfig
    layouts: tuple[ScaleLayout, ...]
    products: Products
    device: str
    tissue: TissueReference | None
    """Tissue map in the folder; None where everything is analysed."""
    only_scale: int | None = None
    """Index of the bundle's scale that the method uses alone."""
    trusted: str | None = None
    """SHA-256 of the bundle's model whose code the client lets run."""
    areas: str | None = None
    """Digest of the areas in the folder to which the run is restricted; None for a whole slide."""

    @property
    def networks(self) -> NetworkKey:
        """Key of the networks that compute its tiles."""
        config = self.config
        return NetworkKey(
            self.bundle,
            self.bundle_sha256,
            self.device,
            config.batch_size,
            config.precision,
            config.method,
            self.only_scale,
            self.trusted,
        )

    def with_precision(self, precision: Precision) -> RunSpec:
        """A copy with another precision."""
        return replace(self, config=replace(self.config, precision=precision))


@dataclass(frozen=True, slots=True)
class NetworkKey:
    """Key of a worker's networks: a bundle, its device, batch size and precision, and the method that refines."""

    bundle: str | None
    sha256: str
    device: str
    batch_size: int | None
    precision: Precision
    method: str = MAGNET
    only_scale: int | None = None
    trusted: str | None = None


class Networks:
    """A bundle's networks on a device, for the tiles of any slide."""

    def __init__(self, key: NetworkKey) -> None:
        """Raises BundleError, ConfigError."""
        device = resolve_device(key.device)
        bundle = restricted(_load_bundle(key), key.only_scale)
        self.engine = engine_of(bundle, device, key.precision, key.batch_size, key.method)
        self.predictor = predictor_for(self.engine)
        self.background = bundle.spec.background_index

    def close(self) -> None:
        """Release the device."""
        self.predictor.close()


def restricted(bundle: Bundle, only_scale: int | None) -> Bundle:
    """The bundle with one of its scales and no refiner; None: unchanged."""
    if only_scale is None:
        return bundle
    return replace(bundle, spec=single_scale(bundle.spec, only_scale), refiners=(), statistics=None, heads={})


def engine_of(
    bundle: Bundle, device: torch.device, precision: Precision, batch_size: int | None, method: str
) -> Engine:
    """The engine of a bundle for a method. Raises ConfigError, BundleError."""
    refining = method if course_of(method).refines == "last" else MAGNET
    return Engine(bundle, device, precision=precision, batch_size=batch_size, method=refining)


class WorkerContext:
    """The open resources of a run; shared by a worker's threads."""

    prefetch: int
    """Patches of a tile that are read before they are needed."""

    def __init__(self, run: RunSpec) -> None:
        """Raises SlideOpenError, BundleError, ConfigError."""
        self.run = run
        with ExitStack() as opened:
            networks = opened.enter_context(_networks.borrow(run.networks))
            self.reader = _open_checked(run)
            opened.callback(self.reader.close)
            self._opened = opened.pop_all()
        self.engine, self.predictor = networks.engine, networks.predictor
        self.background = networks.background
        self.read_threads = _read_threads(self.engine.device.type)
        self.prefetch = self.engine.batch_size + 1
        self.pyramids = run.products.pyramids(run.folder)
        self._folder = ResultFolder(run.folder)

    @cached_property
    def tissue(self) -> TissueMap | None:
        """The tissue map of the result folder; None where everything is analysed."""
        if self.run.tissue is None:
            return None
        with storage_errors(self._folder.tissue_png):
            return TissueMap.load(self._folder.tissue_png, self.run.tissue)

    @cached_property
    def areas(self) -> Areas | None:
        """Areas of the result folder to which the run is restricted. Raises StoreError."""
        return None if self.run.areas is None else self._folder.read_areas()

    def require_fencing_token(self, token: str) -> None:
        """Raises ResultBusyError where the folder has another token.

        This is a worker that was suspended or cut off, with a tile of a scale or run that is finished.
        """
        for pause_s in _TOKEN_PAUSES_S:
            time.sleep(pause_s)
            if self._folder.fencing_token() == token:
                return
        raise ResultBusyError(
            f"{self._folder.path}: the run has continued without this worker; its tile is not written"
        )

    def close(self) -> None:
        """Release the slide and the networks."""
        self._opened.close()


def _decoded_bytes(context: WorkerContext) -> int:
    """Decoded pixels that the context alone keeps; OpenSlide's are in one cache for the whole process."""
    info = context.reader.info
    return info.cache_bytes if info.reader == "image" else 0


_networks: ResourceCache[NetworkKey, Networks] = ResourceCache(Networks, idle=_IDLE_NETWORKS)
worker_contexts: ResourceCache[RunSpec, WorkerContext] = ResourceCache(
    WorkerContext, idle=_IDLE_CONTEXTS, idle_bytes=_IDLE_DECODED_BYTES, size=_decoded_bytes
)
"""The contexts of this process, by run."""


def count_read_threads(device: str, cores: int) -> int:
    """Threads of a process that read and decode, for all its tiles.

    For a CPU half the cores: with the shipped networks, which are the quickest, reading takes 3.4 seconds to their 9.4
    (docs/performance.md), so about a third of the threads that compute keeps them fed. Decoding releases Python's lock.
    A GPU leaves all cores to reading.
    """
    if device == "cpu":
        return min(cores, max(LEAST_READ_THREADS, ceil_div(cores, 2)))
    return max(cores, LEAST_READ_THREADS)


@cache
def _read_threads(device: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count_read_threads(device, cpu_threads()), thread_name_prefix="read")


def _open_checked(run: RunSpec) -> SlideReader:
    reader = open_here(run.slide, run.config.mpp)
    if reader.info.identity != run.slide_identity:
        reader.close()
        raise SlideOpenError(
            f"{run.slide} on {socket.gethostname()} is not the file that the run was planned for; "
            "was it replaced meanwhile?"
        )
    return reader


def open_here(slide: str, mpp: float | None) -> SlideReader:
    """Open a slide on a worker. Raises SlideOpenError with the worker's host, ConfigError."""
    try:
        return open_slide(slide, mpp=mpp)
    except SlideOpenError as error:
        raise SlideOpenError(f"worker on {socket.gethostname()}: {error}") from error


def _load_bundle(key: NetworkKey) -> Bundle:
    host = socket.gethostname()
    try:
        bundle = load_bundle(key.bundle, trusted=key.trusted)
    except BundleError as error:
        raise BundleError(f"worker on {host}: {error}") from error
    if bundle.sha256 != key.sha256:
        raise BundleError(
            f"{bundle.path} on {host} is another bundle than the client's "
            f"({bundle.sha256[:12]} and {key.sha256[:12]}); make them the same file"
        )
    return bundle
