"""What a worker process of this machine does first; Dask's nanny imports this by name and calls `dask_setup`."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the run: it stops its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
