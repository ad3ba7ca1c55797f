"""What this process may use of the machine."""

from __future__ import annotations

from dask.system import cpu_count


def cpu_threads() -> int:
    """Processors that this process may use: its affinity and its container's share, not the machine's count."""
    return max(1, int(cpu_count()))
