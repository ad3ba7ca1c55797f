"""Processors and memory of this process."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

KEPT_BLOCK_BYTES = 32 << 20
"""Largest array for which glibc reuses memory. By default it requests larger ones from the system and returns them at
once, and fresh pages take longer than computing a map on them: patches take up to twice as long (`python -m
benchmarks.pipeline`)."""

KEPT_FREE_BYTES = 256 << 20
"""Free memory at the end of an arena above which it is returned to the system."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Constants of glibc's malloc.h."""


def cpu_threads() -> int:
    """Number of CPUs that this process may use: by its affinity and its container's share, not the machine's count."""
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
    """Configure glibc to reuse memory in two arenas, for the rest of this process; a no-op with other libraries.

    By default each thread has an arena, which keeps what the thread once needed, so that a worker's memory grows by a
    third over a few hundred tiles (`python -m benchmarks.memory`). Only for our own processes: workers and the command
    line.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
    mallopt(_M_ARENA_MAX, 2)
