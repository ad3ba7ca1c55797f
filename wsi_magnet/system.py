"""Processors and memory of this process."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

KEPT_BLOCK_BYTES = 32 << 20
"""Arrays up to this size are taken from memory that was used before. By itself glibc asks the system for each of the
larger ones and gives it back at once, and to be handed clean pages takes longer than to compute a map on them: patches
take up to twice as long (`python -m benchmarks.pipeline`)."""

KEPT_FREE_BYTES = 256 << 20
"""More than this at the end of an arena goes back to the system."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Numbers of glibc's malloc.h."""


def cpu_threads() -> int:
    """Processors that this process may use: its affinity and its container's share, not the machine's count."""
    from dask.system import cpu_count  # slow to import, and `--help` needs none of it

    return max(1, int(cpu_count()))


def computes_bf16() -> bool:
    """True if the processor has bfloat16 instructions; without them bfloat16 is slower than float32.

    Known on Linux for x86 processors; false elsewhere.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def give_memory_back() -> None:
    """Return free memory to the system, after a large allocation that does not come again; glibc only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_memory_steady() -> None:
    """Have glibc reuse memory in two arenas, for the rest of this process's life; elsewhere do nothing.

    By default it has an arena for each thread, and each keeps what its thread once needed, so that a worker's memory
    creeps up by a third over a few hundred tiles (`python -m benchmarks.memory`). Only for processes that are ours:
    workers and the command line.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
    mallopt(_M_ARENA_MAX, 2)
