"""Names in the output folder of a cohort, and the results in it."""

from __future__ import annotations

from pathlib import Path

from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, exists, names
from wsi_magnet.storage.lock import LOCK_FILES

STATES, STATE_SUFFIX = ".cohort", ".json"
"""The folder of the state files, and their suffix."""

SUMMARY_CSV, SUMMARY_MD, LOG = "summary.csv", "summary.md", "log.jsonl"

RESERVED = frozenset({STATES, SUMMARY_CSV, SUMMARY_MD, LOG, "log", "report.html", *LOCK_FILES})
"""Names that no slide's result may have."""


def holds_results(folder: Path) -> bool:
    """True for a slide's result folder and for a cohort's."""
    return (folder / STATES).is_dir() or ((folder / "run.json").is_file() and (folder / "mask.ome.zarr").is_dir())


def state_names(out: Location) -> list[str]:
    """Names of the slides with a state file in a cohort's folder, sorted. Raises StoreError."""
    with storage_errors(out / STATES):
        found = names(out / STATES)
    return [name.removesuffix(STATE_SUFFIX) for name in found if name.endswith(STATE_SUFFIX)]


def runs_in(folder: Location) -> list[str]:
    """Names of the result folders in a folder, sorted: of single runs and of a batch. Raises StoreError."""
    with storage_errors(folder):
        if isinstance(folder, Path) and not folder.is_dir():
            return []
        found = [name for name in names(folder) if not name.startswith(".")]
        return [name for name in found if exists(folder / name / "run.json")]


def result_folders(path: Location) -> list[Location]:
    """Result folders that a path stands for: those in the output folder of runs or of a batch; none for a batch's own
    files; else the path.

    So `results` and `results/*` are the same results. Raises StoreError.
    """
    if isinstance(path, Path) and path.name in (SUMMARY_CSV, SUMMARY_MD, LOG) and path.is_file():
        return []
    with storage_errors(path):
        if exists(path / "run.json"):
            return [path]
    inside = [path / name for name in runs_in(path)]
    return inside or ([] if is_cohort(path) else [path])


def is_cohort(path: Location) -> bool:
    """True for the output folder of a batch. Raises StoreError."""
    with storage_errors(path):
        return exists(path / STATES)
