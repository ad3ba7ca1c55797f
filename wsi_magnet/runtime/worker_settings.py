"""What Dask's processes need wherever they are started: they do not have the configuration of the run's own process."""

from __future__ import annotations

PRELOAD = "wsi_magnet.runtime.worker_process"
"""What every worker process does first."""

WORKER_ENVIRONMENT = {
    # Memory is planned, not watched: a worker that spills or pauses would only make a run slower.
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    # Tiles take seconds and hold the GIL while they copy.
    "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "60s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60s",
}

SCHEDULER_ENVIRONMENT = {
    # A worker that says nothing for so long is cut off: its tiles go to others.
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "2 minutes",
    "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "60s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60s",
}
