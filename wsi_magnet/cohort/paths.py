"""What lies where in the folder of a cohort."""

from __future__ import annotations

from pathlib import Path

from wsi_magnet.storage.lock import LOCK_FILES

STATES = ".cohort"
"""The folder of the state files."""

SUMMARY_CSV, SUMMARY_MD, LOG = "summary.csv", "summary.md", "log.jsonl"
"""Of the whole cohort."""

RESERVED = frozenset({STATES, SUMMARY_CSV, SUMMARY_MD, LOG, "log", "report.html", *LOCK_FILES})
"""Names that no slide's result may have."""


def holds_results(folder: Path) -> bool:
    """True for a slide's result folder and for a cohort's: what lies there are results, and no slides."""
    return (folder / STATES).is_dir() or ((folder / "run.json").is_file() and (folder / "mask.ome.zarr").is_dir())
