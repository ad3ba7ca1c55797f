"""What this process may use of the machine."""

from __future__ import annotations

import ctypes

from dask.system import cpu_count

LARGE_BLOCK_BYTES = 2 << 20
"""Arrays from this size on go back to the system when they are freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Numbers of glibc's malloc.h."""


def cpu_threads() -> int:
    """Processors that this process may use: its affinity and its container's share, not the machine's count."""
    return max(1, int(cpu_count()))


def keep_memory_steady() -> None:
    """Have glibc give large arrays back; elsewhere nothing is done.

    By itself it keeps freed arrays of up to 32 MiB, in an arena for each thread, so that a worker's memory creeps up by
    a third over a few hundred tiles (`python -m tests.benchmarks.memory`).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, 8 * LARGE_BLOCK_BYTES)
    mallopt(_M_ARENA_MAX, 2)
