"""Tables of a cohort's slides: summary.csv for spreadsheets, summary.md for people."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

from wsi_magnet.cohort.paths import SUMMARY_CSV, SUMMARY_MD
from wsi_magnet.cohort.state import SlideState
from wsi_magnet.results.pyramid import replace_text
from wsi_magnet.storage.location import Location

PAUSE_RATIO = 20
"""Pause between two writes of the tables relative to the time of one: a twentieth of the time, for any number of
slides."""

_ORDER = ("failed", "finished with errors", "running", "waiting", "finished")


class Tables:
    """Both files, rewritten as slides end."""

    def __init__(self, out: Location) -> None:
        self._out = out
        self._next = 0.0

    def refresh(self, states: Mapping[str, SlideState]) -> None:
        """Write both, unless they are recent. Raises StoreError."""
        if time.monotonic() >= self._next:
            self.write(states)

    def write(self, states: Mapping[str, SlideState]) -> None:
        """Write both. Raises StoreError."""
        started = time.monotonic()
        ordered = sorted(states.values(), key=lambda state: state.name)
        replace_text(self._out / SUMMARY_CSV, csv_text(ordered))
        replace_text(self._out / SUMMARY_MD, markdown(ordered))
        ended = time.monotonic()
        self._next = ended + PAUSE_RATIO * (ended - started)


def csv_text(states: Sequence[SlideState]) -> str:
    """summary.csv: a row for each slide, and a column for the area of each class that any slide has."""
    classes = _classes(states)
    graded = any(state.metrics.gleason for state in states)
    text = StringIO()
    rows: list[dict[str, object]] = [_row(state, classes, graded=graded) for state in states]
    writer = csv.DictWriter(
        text, list(_row(SlideState(name="", slide=""), classes, graded=graded)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return _writable(text.getvalue())


def _row(state: SlideState, classes: Sequence[str], *, graded: bool) -> dict[str, object]:
    metrics, areas, grade = state.metrics, state.metrics.classes, state.metrics.gleason
    slide_mpp = metrics.slide_mpp or (None,)
    row: dict[str, object] = {
        "name": state.name,
        "slide": state.slide,
        "state": state.state,
        "reason": state.error,
        "retry": state.retry if state.state in ("failed", "finished with errors") else None,
        "seconds": round(state.seconds, 1) if state.attempts else None,
        "attempts": state.attempts,
        "bundle": metrics.bundle,
        "bundle_sha256": metrics.bundle_sha256,
        "refine": metrics.refine,
        "precision": metrics.precision,
        "slide_mpp": _number(slide_mpp[0]),
        "mask_mpp": _number(metrics.mpp),
        "tissue_share": _number(metrics.tissue_share),
        "refined_share": _number(metrics.refined_share),
        "cells_not_analysed": metrics.cells_not_analysed,
        "not_analysed_mm2": _number(metrics.not_analysed_mm2),
        "analysed_mm2": _number(metrics.analysed_mm2),
        **{f"{name}_mm2": _number(areas.get(name)) for name in classes},
    }
    if graded:
        names = {"primary": "gleason_primary", "secondary": "gleason_secondary", "score": "gleason_score"}
        row |= {column: getattr(grade, name, None) for name, column in {**names, "grade_group": "grade_group"}.items()}
    return row


def markdown(states: Sequence[SlideState]) -> str:
    """summary.md: failures with their commands, then all slides."""
    counts = counts_text(states)
    parts = ["# Cohort", f"{len(states)} slides: {counts}. Not for diagnosis."]
    if bad := [state for state in states if state.state in ("failed", "finished with errors")]:
        parts += ["## Failures", *(_failure(state) for state in bad)]
    classes = _classes(states)
    graded = any(state.metrics.gleason for state in states)
    grades = ["Gleason (by area)"] if graded else []
    head = ["slide", "state", *(f"{name}, mm²" for name in classes), *grades, "refined", "seconds"]
    rows = [_cells(state, classes, graded=graded) for state in states]
    parts += ["## Slides", _table(head, rows)]
    return _writable("\n\n".join(parts) + "\n")


def counts_text(states: Iterable[SlideState]) -> str:
    """Counts by state: "50 finished, 10 failed"."""
    counts: Counter[str] = Counter(state.state for state in states)
    return ", ".join(f"{counts[name]} {name}" for name in reversed(_ORDER) if counts[name]) or "none"


def _failure(state: SlideState) -> str:
    fence = "~~~"
    return (
        f"**{_escaped(state.name)}** ({state.state}): {_escaped(state.error or '')}\n\n{fence}\n{state.retry}\n{fence}"
    )


def _cells(state: SlideState, classes: Sequence[str], *, graded: bool) -> list[str]:
    metrics = state.metrics
    grade, refined = metrics.gleason, metrics.refined_share
    grades = [f"{grade.primary} + {grade.secondary}, group {grade.grade_group}" if grade else ""]
    return [
        _escaped(state.name),
        state.state,
        *(f"{metrics.classes[name]:.3f}" if name in metrics.classes else "" for name in classes),
        *(grades if graded else []),
        "" if refined is None else f"{100 * refined:.0f} %",
        f"{state.seconds:.0f}" if state.attempts else "",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def _classes(states: Iterable[SlideState]) -> list[str]:
    """Names of the classes of all slides, in the order of their bundles."""
    return list(dict.fromkeys(name for state in states for name in state.metrics.classes))


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _writable(text: str) -> str:
    """Text with names that are not Unicode escaped as bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
