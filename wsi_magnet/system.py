"""What this process may use of the machine."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from dask.system import cpu_count

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
    return max(1, int(cpu_count()))


def computes_bf16() -> bool:
    """True where the processor multiplies bfloat16 itself; where it does not, that is slower than float32.

    Told by Linux for x86 processors; of others nothing is known.
    """
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = next((line for line in described.splitlines() if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def give_memory_back() -> None:
    """Return to the system what is free, after something large that does not come again; with glibc alone."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_memory_steady() -> None:
    """Have glibc use memory again instead of asking for new, and in few arenas; elsewhere nothing is done.

    By itself it has an arena for each thread, and each keeps what its thread once needed, so that a worker's memory
    creeps up by a third over a few hundred tiles (`python -m benchmarks.memory`).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
    mallopt(_M_ARENA_MAX, 2)
