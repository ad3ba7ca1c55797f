"""Segment all images with one method in an isolated process, so that its peak memory is the method's own."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.evaluate.methods import Row, Settings
from wsi_magnet.runtime.isolation import ProcessDied, stream_isolated

Notify = Callable[[str], None]
"""Progress callback, called with one line of text."""


@dataclass(frozen=True, slots=True)
class Item:
    """One slide to segment."""

    slide: Path
    out: Path
    """The result folder is made in it."""
    settings: Settings


@dataclass(frozen=True, slots=True)
class MethodTask:
    """A method and all it is to segment."""

    method: Row
    bundle: Path
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Segmented:
    """A finished result."""

    folder: Path
    seconds: float
    """Wall time."""


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """The most memory that a process held, in bytes."""

    ram: int
    gpu: int | None
    """GPU memory, by torch; None where no GPU was used."""


def segment_isolated(
    method: Row, bundle: Path, items: Sequence[Item], notify: Notify
) -> tuple[list[Segmented], PeakMemory]:
    """Segment all items in a fresh process, one after the other.

    Raises WsiMagnetError with the method's error in one line, or with how its process died.
    """
    done: list[Segmented] = []
    peak: PeakMemory | None = None
    try:
        for message in stream_isolated(work, MethodTask(method, bundle, tuple(items)), show_output=True):
            if isinstance(message, PeakMemory):
                peak = message  # the last one, but a process that is left before its end is killed, with a traceback
                continue
            done.append(message)
            notify(f"{method.name}: {len(done)} of {len(items)}, {message.folder.name}, {message.seconds:.1f} s")
    except ProcessDied as died:
        raise WsiMagnetError(
            f"{method.name}: its process died after {len(done)} of {len(items)} images: {died}"
        ) from died
    except WsiMagnetError as error:
        raise WsiMagnetError(f"{method.name}: {error}") from error
    except Exception as error:  # a method of another package may raise whatever it likes
        text = " ".join(str(error).split())
        raise WsiMagnetError(f"{method.name}: {type(error).__name__}: {text}") from error
    if peak is None:
        raise WsiMagnetError(f"{method.name}: its process did not report its memory")
    return done, peak


def peak_memory_bytes() -> int:
    """The most resident memory that this process held.

    A process that was spawned inherits its parent's ru_maxrss on Linux, so there the kernel's own mark is read.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def work(task: MethodTask) -> Iterator[Segmented | PeakMemory]:
    """Run in the isolated process: yield a `Segmented` for each item, and at last the `PeakMemory`."""
    for item in task.items:
        started = time.perf_counter()
        folder = task.method.segment(item.slide, task.bundle, item.out, item.settings)
        yield Segmented(folder, time.perf_counter() - started)
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
    yield PeakMemory(peak_memory_bytes(), gpu)
