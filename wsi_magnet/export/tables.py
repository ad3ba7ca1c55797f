"""Areas of results as one CSV table: a row a class, slide after slide."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_magnet.errors import ConfigError
from wsi_magnet.results.alarms import kinds_text
from wsi_magnet.results.grading import is_pattern
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import Exported, FileOptions, refuse_existing, whole

SUFFIX = ".csv"

_GRADE = {
    "gleason_primary": "primary",
    "gleason_secondary": "secondary",
    "gleason_score": "score",
    "isup_grade_group": "grade_group",
}
"""Columns, and their keys in a summary."""

COLUMNS = (
    "slide",
    "slide_identity",
    "bundle",
    "state",
    "alarms",
    "mpp",
    "class",
    "value",
    "area_mm2",
    "percent_of_analysed",
    "percent_of_tumour",
    "analysed_mm2",
    "tumour_mm2",
    "not_analysed_mm2",
    *_GRADE,
)
"""Columns of the table. The share of the tumour is empty for a class that is not a Gleason pattern; the columns of the
grade are empty if the bundle has no patterns or the slide no tumour."""


def write_csv(sources: Sequence[Result], target: Path, files: FileOptions) -> Exported:
    """Write the areas of results as CSV (RFC 4180), in UTF-8.

    Raises ConfigError for another suffix, StoreError where something cannot be read or written, or the
    target exists.
    """
    write_table(target, COLUMNS, (row for source in sources for row in rows(source)), files)
    return Exported((target,), 0, tuple(_notes(sources)))


def write_table(target: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], files: FileOptions) -> None:
    """Write rows as CSV (RFC 4180), in UTF-8. Raises ConfigError for another suffix, StoreError."""
    if target.suffix.lower() != SUFFIX:
        raise ConfigError(f"{target} is not a name for a table; end it in {SUFFIX}")
    refuse_existing(target, overwrite=files.overwrite)
    # A slide's name on disk may contain bytes that are not text.
    with whole(target) as partial, partial.open("w", encoding="utf-8", errors="replace", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def rows(source: Result) -> Iterator[dict[str, Any]]:
    """One row for each class, in the bundle's order."""
    values = source.summary
    patterns = [c for c in values["classes"] if is_pattern(c["name"], c["value"])]
    tumour = sum(c["area_mm2"] for c in patterns)
    common = {
        "slide": source.name,
        "slide_identity": source.identity,
        "bundle": source.record.bundle.name,
        "state": source.state,
        "alarms": kinds_text(source.alarms),
        "mpp": values["mpp"],
        "analysed_mm2": area_cell(values["analysed_mm2"]),
        "tumour_mm2": area_cell(tumour) if patterns else "",
        "not_analysed_mm2": area_cell(values["not_analysed_mm2"]),
    }
    if grade := values["gleason"]:
        common |= {column: grade[name] for column, name in _GRADE.items()}
    for one in values["classes"]:
        yield {
            **common,
            "class": one["name"],
            "value": one["value"],
            "area_mm2": area_cell(one["area_mm2"]),
            "percent_of_analysed": percent_cell(one["percent"]),
            "percent_of_tumour": percent_cell(100 * one["area_mm2"] / tumour) if tumour and one in patterns else "",
        }


def _notes(sources: Sequence[Result]) -> Iterator[str]:
    for source in sources:
        if source.running:
            found = f"areas are those at {source.geometry.mpp:g} µm/px"
            yield f"the run of {source.name} is not finished: {found}"


def area_cell(mm2: float) -> str:
    """Area in mm², rounded to a square micron."""
    return f"{mm2:.6f}"


def percent_cell(share: float) -> str:
    """Share in percent, with four decimals."""
    return f"{share:.4f}"
