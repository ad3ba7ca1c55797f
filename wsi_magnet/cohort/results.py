"""The results in what somebody names who wants to see them."""

from __future__ import annotations

from pathlib import Path

from wsi_magnet.cohort.paths import LOG, STATES, SUMMARY_CSV, SUMMARY_MD
from wsi_magnet.cohort.state import States
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, exists


def results_of(named: Location) -> list[Location]:
    """The folder named; of a batch's output all results in it, and none for the files that it writes beside them.

    So `results` and `results/*` both mean the results. Raises StoreError.
    """
    if isinstance(named, Path) and named.name in (SUMMARY_CSV, SUMMARY_MD, LOG) and named.is_file():
        return []
    with storage_errors(named):
        if not exists(named / STATES):
            return [named]
        folders = [named / name for name in States(named).read()]
        return [folder for folder in folders if exists(folder / "run.json")]
