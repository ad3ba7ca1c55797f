"""What this process may use of the machine."""

from __future__ import annotations

import os


def cpu_threads() -> int:
    """Processors that this process may run on (its affinity, not the machine's count)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
