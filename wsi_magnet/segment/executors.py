"""Executors of a run or cohort, from the options of the command line."""

from __future__ import annotations

from dataclasses import replace

from wsi_magnet.config import Execution
from wsi_magnet.inference.devices import gpu_gib, resolve_device
from wsi_magnet.runtime.types import Executor


def start_workers(execution: Execution) -> Executor:
    """Start the executor of an `Execution`; imports Dask."""
    from wsi_magnet.runtime.start import start_executor
    from wsi_magnet.system import cpu_threads

    threads = cpu_threads()
    here = execution.workers is None and execution.scheduler is None and execution.cluster is None
    if here and (processes := count_gpu_processes(execution.device, threads)):
        return start_executor(
            replace(execution, workers=processes), 2 * threads
        )  # half of the threads wait for the GPU
    return start_executor(execution, threads)


def count_gpu_processes(device: str, threads: int) -> int:
    """Worker processes for a GPU, 0 without one.

    The threads of a single process share Python's lock and cannot read and write as fast as a GPU computes. Each
    process has networks and buffers of its own in the GPU's memory, so a small GPU gets fewer.
    """
    resolved = resolve_device(device)
    if resolved.type != "cuda":
        return 0
    return max(1, min(4 if gpu_gib(resolved) >= 30 else 2, threads // 4))
