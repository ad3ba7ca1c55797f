"""What a worker keeps open for a job: the slide, the networks, the stores; shared by its threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from wsi_magnet.analyst import analyst_for
from wsi_magnet.config import Precision, RunConfig
from wsi_magnet.engine import Engine, resolve_device
from wsi_magnet.errors import BundleError, SlideOpenError
from wsi_magnet.machine import cpu_threads, keep_memory_steady
from wsi_magnet.nets.bundle import Bundle, load_bundle
from wsi_magnet.plan import Frame
from wsi_magnet.result import Products, ResultFolder
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import SlideReader
from wsi_magnet.store import Pyramid, explained
from wsi_magnet.tissue import TissueMap

READ_THREADS = 4
"""Threads of a worker that read and decode, at most; where they feed a GPU, at least. Decoding is the cheaper half, so
that few keep a processor's networks fed, and each has OpenSlide's table of the slide's tiles to itself."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker must know to run any tile of a slide; frozen, small, and the key of what workers keep."""

    slide: str
    slide_identity: str
    bundle: str | None
    bundle_sha256: str
    folder: str
    config: RunConfig
    frames: tuple[Frame, ...]
    products: Products
    device: str
    tissue_downsample_xy: tuple[float, float] | None
    """Of the tissue map that lies in the folder; None where everything is analysed."""

    def with_precision(self, precision: Precision) -> Job:
        """The same job, in that arithmetic."""
        return replace(self, config=replace(self.config, precision=precision))


class Hall:
    """What a worker keeps open for one job; shared by its threads."""

    ahead: int
    """Patches of a tile that are read before they are needed."""

    def __init__(self, job: Job) -> None:
        keep_memory_steady()
        self.job = job
        self.device = resolve_device(job.device)
        self.reader = _open_checked(job)
        bundle = _load_bundle(job)
        if bundle.sha256 != job.bundle_sha256:
            raise BundleError(
                f"{bundle.path} on {socket.gethostname()} is another bundle than the client's "
                f"({bundle.sha256[:12]} and {job.bundle_sha256[:12]}); make them the same file"
            )
        self.engine = Engine(bundle, self.device, job.config)
        self.analyst = analyst_for(self.engine)
        bound = min if self.device.type == "cpu" else max
        readers = bound(READ_THREADS, cpu_threads())
        self.readers = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self.ahead = self.engine.batch_size + 1
        self.background = bundle.spec.background_index
        self._pyramids = {spec.path.name.split(".")[0]: Pyramid(spec) for spec in job.products.specs(Path(job.folder))}
        self._users = 0
        self._lock = threading.Lock()
        self._retired = False

    @cached_property
    def tissue(self) -> TissueMap | None:
        """The tissue map of the result folder; None where everything is analysed."""
        if self.job.tissue_downsample_xy is None:
            return None
        folder = ResultFolder(Path(self.job.folder))
        with explained(folder.tissue_png):
            return TissueMap.load(folder.tissue_png, self.job.tissue_downsample_xy)

    def pyramid(self, product: str) -> Pyramid:
        """The image of that name: "mask", "probabilities" or "uncertainty"."""
        return self._pyramids[product]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Within it the hall stays open even if it is retired meanwhile; the last user of a retired hall closes it."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                last = self._retired and self._users == 0
            if last:
                self._close()

    def retire(self) -> None:
        """No new work will come: close as soon as nobody is inside."""
        with self._lock:
            self._retired = True
            idle = self._users == 0
        if idle:
            self._close()

    def _close(self) -> None:
        self.readers.shutdown(wait=False, cancel_futures=True)
        self.analyst.close()
        self.reader.close()


_halls: dict[Job, Hall] = {}
_halls_lock = threading.Lock()
_HALLS_KEPT = 2


def hall_of(job: Job) -> Hall:
    """The worker's hall for a job; the oldest is retired when there are more than two."""
    with _halls_lock:
        if job not in _halls:
            _halls[job] = Hall(job)
            while len(_halls) > _HALLS_KEPT:
                _halls.pop(next(iter(_halls))).retire()
        return _halls[job]


def close_halls(job: Job) -> None:
    """Let go of what this process keeps for a job."""
    with _halls_lock:
        hall = _halls.pop(job, None)
    if hall is not None:
        hall.retire()


def _open_checked(job: Job) -> SlideReader:
    try:
        reader = open_slide(job.slide, mpp=job.config.mpp)
    except SlideOpenError as error:
        raise SlideOpenError(f"worker on {socket.gethostname()}: {error}") from error
    if reader.info.identity != job.slide_identity:
        reader.close()
        raise SlideOpenError(
            f"{job.slide} on {socket.gethostname()} is not the file that the run was planned for; "
            "was it replaced meanwhile?"
        )
    return reader


def _load_bundle(job: Job) -> Bundle:
    try:
        return load_bundle(job.bundle)
    except BundleError as error:
        raise BundleError(f"worker on {socket.gethostname()}: {error}") from error
