"""Batches that are prefetched by threads or by processes; they are the same either way."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread, Timer
from typing import Any, TypeVar

import torch

from wsi_magnet.errors import TrainingError
from wsi_magnet.system import cpu_threads, keep_memory_steady

PREFETCHED_BATCHES = 3
DRAWING_THREADS = 4
"""Threads that draw batches for a GPU, at most. On a CPU the network has all cores, and one thread draws."""

GRACE_S = 5.0
"""Seconds after SIGTERM in which a loader still draws."""

Batch = TypeVar("Batch")

Draw = Callable[[int, range], Batch]
"""Callable with a step and the items of its batch that are wanted; a pure function of the two."""


def prefetched_batches(
    draw: Draw[Batch], steps: range, mine: range, device: torch.device, loaders: int
) -> Generator[Batch]:
    """Batches in the order of the steps.

    mine: items of each batch. device: that of the network. loaders: number of processes, to which `draw` is sent; 0 for
    threads of this one. Closing the generator ends them after the batches that they are drawing. Raises what `draw`
    raises, TrainingError where a process has ended.
    """
    count = loaders or drawing_threads(device)
    prefetched: deque[Future[Batch]] = deque()
    executor = _processes(draw, count) if loaders else ThreadPoolExecutor(count, thread_name_prefix="draw")
    submitted = _draw_sent if loaders else draw
    try:
        for step in steps:
            prefetched.append(executor.submit(submitted, step, mine))
            if len(prefetched) > count + PREFETCHED_BATCHES:
                yield prefetched.popleft().result()
        while prefetched:
            yield prefetched.popleft().result()
    except BrokenProcessPool as error:
        raise TrainingError(
            f"one of {loaders} loaders has ended, as when memory is full; give fewer --loaders or less --cache-gb; the "
            "same command resumes from the last checkpoint"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def drawing_threads(device: torch.device) -> int:
    """Number of threads that draw batches without loaders."""
    return 1 if device.type == "cpu" else min(DRAWING_THREADS, cpu_threads())


def _processes(draw: Draw[Any], count: int) -> Executor:
    return ProcessPoolExecutor(count, get_context("spawn"), _begin, (draw,))


_SENT: list[Draw[Any]] = []
"""In a loader: the callable that was sent to it."""


def _begin(draw: Draw[Any]) -> None:
    """Prepare a loader."""
    # A terminal and a batch system send signals to all processes: the training stops by itself first. Its executor
    # ends loaders by SIGTERM too, after one of them has failed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: Timer(GRACE_S, os._exit, (1,)).start())
    Thread(target=_end_with_parent, daemon=True).start()
    keep_memory_steady()
    torch.set_num_threads(1)
    _SENT[:] = [draw]


def _end_with_parent() -> None:
    """End this process when the training's has ended, even if that was killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _draw_sent(step: int, mine: range) -> Any:
    return _SENT[0](step, mine)
