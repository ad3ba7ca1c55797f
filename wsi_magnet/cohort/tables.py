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
from wsi_magnet.text import counted

PAUSE_RATIO = 20
"""Pause between two writes of the tables relative to the time of one: a twentieth of the time, for any number of
slides."""

_ALARMED_NAMED = 10
"""Slides that are named with a kind of alarm."""

_LEAST_SLIDES = 3
"""Least number of slides without a class for an alarm: a single one may well lack it."""

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
        "alarms": "; ".join(metrics.alarms),
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
    if lines := alarm_lines(states):
        parts += ["## Alarms", "\n".join(f"- {_escaped(line)}" for line in lines)]
    classes = _classes(states)
    graded = any(state.metrics.gleason for state in states)
    grades = ["Gleason (by area)"] if graded else []
    head = ["slide", "state", *(f"{name}, mm²" for name in classes), *grades, "refined", "alarms", "seconds"]
    rows = [_cells(state, classes, graded=graded) for state in states]
    parts += ["## Slides", _table(head, rows)]
    return _writable("\n\n".join(parts) + "\n")


def counts_text(states: Iterable[SlideState]) -> str:
    """Counts by state: "50 finished, 10 failed"."""
    counts: Counter[str] = Counter(state.state for state in states)
    return ", ".join(f"{counts[name]} {name}" for name in reversed(_ORDER) if counts[name]) or "none"


def alarm_lines(states: Iterable[SlideState]) -> list[str]:
    """A line for each kind of alarm with its slides, and one for classes that were found on no slide of several."""
    done = [state for state in states if state.has_result]
    slides: dict[str, list[SlideState]] = {}
    for state in done:
        for kind in state.metrics.alarms:
            slides.setdefault(kind, []).append(state)
    lines = []
    for kind, found in sorted(slides.items(), key=lambda one: -len(one[1])):
        names = [state.name for state in found]
        more = f" and {len(names) - _ALARMED_NAMED} more" if len(names) > _ALARMED_NAMED else ""
        which = f"{', '.join(names[:_ALARMED_NAMED])}{more}"
        example = found[0].metrics.alarms[kind]
        lines.append(f"{kind}, {len(found)} of {counted(len(done), 'slide')}: {which}. {names[0]}: {example}")
    with_tissue = [state for state in done if state.metrics.analysed_mm2]
    never = [name for name in _classes(with_tissue) if not any(s.metrics.classes.get(name) for s in with_tissue)]
    if never and len(with_tissue) >= _LEAST_SLIDES:
        lines.append(f"class never predicted: no pixel of {counted(len(with_tissue), 'slide')} is {', '.join(never)}")
    return lines


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
        _escaped("; ".join(metrics.alarms)),
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
