"""A method at work on all images in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import torch

from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.evaluate.methods import Method, Settings

Say = Callable[[str], None]
"""Is told how it goes, a line at a time."""


_LEAVE_S = 10.0
"""How long a process that has nothing left to do may take to end."""


@dataclass(frozen=True, slots=True)
class Item:
    """One slide to be segmented."""

    slide: Path
    out: Path
    """The result folder is made in it."""
    settings: Settings


@dataclass(frozen=True, slots=True)
class Segmented:
    """A finished result."""

    folder: Path
    seconds: float
    """Wall time of the method alone, without making its bundle."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that a process held, in bytes."""

    ram: int
    gpu: int | None
    """Of the GPU, by torch; None where none was used."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What an error of the worker says."""

    text: str


def work_apart(
    method: Method, bundle: Path, items: Sequence[Item], scratch: Path, say: Say
) -> tuple[list[Segmented], Peak]:
    """Segment all items in a fresh process, one after the other.

    scratch: an existing folder for what the method makes besides. Raises WsiMagnetError with the worker's own line, or
    if the worker is gone.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_begin, args=(there, method, bundle, tuple(items), scratch))
    process.start()
    there.close()
    try:
        done: list[Segmented] = []
        for message in _messages(here):
            match message:
                case Segmented(folder, seconds):
                    done.append(message)
                    say(f"{method.name}: {len(done)} of {len(items)}, {folder.name}, {seconds:.1f} s")
                case Peak():
                    process.join(_LEAVE_S)
                    return done, message
                case Failure(text):
                    raise WsiMagnetError(f"{method.name}: {text}")
        process.join()
        raise WsiMagnetError(
            f"{method.name}: its process ended with code {process.exitcode} after {len(done)} of {len(items)} images"
            f"{'; is there enough memory?' if process.exitcode == -signal.SIGKILL else ''}"
        )
    finally:
        process.terminate()
        process.join(_LEAVE_S)
        process.kill()
        process.join()
        here.close()


def peak_memory_bytes() -> int:
    """The most resident memory that this process held.

    A process that was spawned inherits its parent's ru_maxrss on Linux, so there the kernel's own mark is read.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def work(connection: Connection, method: Method, bundle: Path, items: Sequence[Item], scratch: Path) -> None:
    """What the fresh process does: sends a `Segmented` for each item, and at last its `Peak`, or a `Failure`."""
    try:
        for item in items:
            own = method.prepare(item.slide, bundle, scratch, item.settings)
            begun = time.perf_counter()
            folder = method.segment(item.slide, own, item.out, item.settings)
            connection.send(Segmented(folder, time.perf_counter() - begun))
    except WsiMagnetError as error:
        connection.send(Failure(str(error)))
    except Exception as error:
        # A method of another package may raise whatever it likes; its author asks for the traceback as elsewhere.
        if os.environ.get("WSI_MAGNET_TRACEBACK"):
            raise
        connection.send(Failure(f"{type(error).__name__}: {' '.join(str(error).split())}"))
    else:
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
        connection.send(Peak(peak_memory_bytes(), gpu))


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _messages(connection: Connection) -> Iterator[Segmented | Peak | Failure]:
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return


def _begin(connection: Connection, method: Method, bundle: Path, items: tuple[Item, ...], scratch: Path) -> None:
    # Ctrl-C reaches the whole group of processes: the parent takes it and ends this one, which closes what it has open.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    work(connection, method, bundle, items, scratch)
