"""What a worker of a cluster is asked, and what the client is held against in the same words. Runs on workers."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from wsi_magnet.doctor.apart import one_line
from wsi_magnet.doctor.cluster_facts import WorkerFacts
from wsi_magnet.doctor.hardware import memory_limit
from wsi_magnet.doctor.software import versions_here
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.slides.openslide import openslide_versions
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, exists, read_bytes, replace_bytes, to_location
from wsi_magnet.system import cpu_threads

TOKEN, LOCK, WORKERS = "token", "lock", "worker-"
"""In the probe's folder: what the client wrote, what it has locked, and how the names of what workers write begin."""

_POLL_S = 0.5
_SEEN_AFTER_S = 5.0
"""A network's file system may show a new folder only after some seconds."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What all workers are asked."""

    bundle: str | None
    slide: str | None
    folder: str | None
    """Made by the client in OUT, a folder or a URL; None where no OUT was named."""
    token: str
    """What the client wrote there: a folder of the same name on another disk does not have it."""


@dataclass(frozen=True, slots=True)
class AskWorker:
    """The function that a worker runs, once."""

    def __call__(self, task: Probe) -> WorkerFacts:
        """Look at this process's own machine; what goes wrong is told, and nothing is raised."""
        sha256, bundle_error = _bundle(task.bundle)
        identity, slide_error = (None, None) if task.slide is None else _slide(task.slide)
        folder = None if task.folder is None else to_location(task.folder)
        output = None if folder is None else _output(folder, task.token)
        return WorkerFacts(
            socket.gethostname(),
            os.getpid(),
            cpu_threads(),
            all_versions(),
            time.time(),
            memory_limit(),
            sha256,
            bundle_error,
            output,
            _locks(folder / LOCK) if isinstance(folder, Path) and output is None else False,
            identity,
            slide_error,
            _cuda_devices(),
        )


def all_versions() -> dict[str, str]:
    """Of packages, and of OpenSlide's library."""
    try:
        library, _ = openslide_versions()
    except WsiMagnetError:
        library = "cannot be loaded"
    return {**versions_here(), "OpenSlide": library}


def _bundle(path: str | None) -> tuple[str | None, str | None]:
    try:
        return read_spec(path)[1], None
    except WsiMagnetError as error:
        return None, one_line(error)


def _slide(path: str) -> tuple[str | None, str | None]:
    try:
        with closing(open_slide(path)) as reader:
            return reader.info.identity, None
    except (WsiMagnetError, OSError) as error:
        return None, one_line(error)


def _output(folder: Location, token: str) -> str | None:
    """What is wrong with it; a file of the worker's own stays there for the client to look for."""
    try:
        with storage_errors(folder):
            if (found := _token(folder / TOKEN)) != token:
                return "it is not there" if found is None else "another folder lies there"
            replace_bytes(folder / f"{WORKERS}{socket.gethostname()}-{os.getpid()}", token.encode())
    except WsiMagnetError as error:
        return one_line(error)
    return None


def _token(file: Location) -> str | None:
    deadline = time.monotonic() + _SEEN_AFTER_S
    while not exists(file):
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)
    return read_bytes(file).decode(errors="replace")


def _locks(file: Path) -> bool:
    """True where a lock can be taken that the client holds."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError, NotImplementedError):
        return False
    lock.release()
    return True


def _cuda_devices() -> int:
    import torch  # only here: the client asks itself by the same module

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
