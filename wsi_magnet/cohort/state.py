"""States of a cohort's slides: a small JSON file for each, written atomically and read strictly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from wsi_magnet.cohort.paths import STATE_SUFFIX, STATES, state_names
from wsi_magnet.config import Refine
from wsi_magnet.errors import CohortError, WsiMagnetError
from wsi_magnet.results.alarms import Alarm
from wsi_magnet.results.folder import Existing, ResultFolder, write_json
from wsi_magnet.results.grading import Grade
from wsi_magnet.results.record import RunRecord
from wsi_magnet.schema import Bounds, SchemaError, parse, stored_as, to_json
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, Url, make_folder, names, read_bytes, size_bytes
from wsi_magnet.values import documented

Stage = Literal["waiting", "running", "finished", "finished with errors", "failed"]

_FORMAT, _VERSION = "wsi-magnet-slide-state", 1
_AT_ONCE = 16
"""Concurrent reads or writes: each waits for the disk or the network."""


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMetrics:
    """Numbers of a result for the cohort's tables; None if unknown."""

    bundle: str | None = None
    """Name of the bundle."""
    bundle_sha256: str | None = None
    """Hash of the bundle's file."""
    refine: Refine | None = None
    """Cells that were refined, as `RunConfig.refine`."""
    precision: str | None = None
    """Arithmetic of the networks."""
    slide_mpp: tuple[float, ...] | None = None
    """(x, y) at level 0."""
    mpp: float | None = None
    """Microns per pixel of the mask."""
    tissue_share: float | None = None
    """Share of the finest scale's cells that hold tissue or lie next to it, 0 to 1; of the area tissue has less."""
    refined_share: float | None = None
    """Share of the finer scales' tissue cells that were refined, 0 to 1."""
    cells_not_analysed: int | None = None
    """Cells that no scale could read."""
    analysed_mm2: float | None = None
    """Area of the classes, in mm²."""
    not_analysed_mm2: float | None = None
    """Area that no scale could read, in mm²."""
    classes: Mapping[str, float] = field(default_factory=dict)
    """Area in mm² by the class's name."""
    gleason: Grade | None = None
    """Grading by area; None where the classes are no Gleason patterns."""
    alarms: Mapping[str, str] = field(default_factory=dict)
    """Text of each alarm by its kind."""

    @staticmethod
    def of(summary: Mapping[str, Any], record: RunRecord | None) -> ResultMetrics:
        """Collect them from a slide's summary.json and run.json."""
        finer = summary["scales"][1:]
        cells = sum(one["cells"] for one in finer)
        gleason = summary["gleason"]
        return ResultMetrics(
            bundle=record.bundle.name if record else None,
            bundle_sha256=record.bundle.sha256 if record else None,
            refine=record.config.refine if record else None,
            precision=record.precision if record else None,
            slide_mpp=tuple(record.slide.mpp_xy) if record else None,
            mpp=summary["mpp"],
            tissue_share=summary["tissue_share"],
            refined_share=sum(one["cells_refined"] for one in finer) / cells if cells else None,
            cells_not_analysed=summary["cells_not_analysed"],
            analysed_mm2=summary["analysed_mm2"],
            not_analysed_mm2=summary["not_analysed_mm2"],
            classes={one["name"]: one["area_mm2"] for one in summary["classes"]},
            gleason=Grade(**{f.name: gleason[f.name] for f in fields(Grade)}) if gleason else None,
            alarms={one.kind: one.text for one in Alarm.all_of(summary)},
        )


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class SlideState:
    """Last known state of a slide. Keys of its file that differ from the names here are those of version 0.1.0."""

    name: str
    """Name of its result folder."""
    slide: str
    """Absolute path."""
    state: Stage = "waiting"
    """Last known stage."""
    size_bytes: Annotated[int, Bounds(-(2**63), 2**63)] = -1
    """Size of the slide's file when it was started; -1 without a file."""
    mtime_ns: Annotated[int, Bounds(-(2**63), 2**63)] = -1
    """Time of the file's last change, likewise."""
    result_mtime_ns: Annotated[int, Bounds(-(2**63), 2**63)] = -1
    """Time of the last change of run.json after the slide has ended; -1 if unknown."""
    run_params: Mapping[str, Any] = field(metadata=stored_as("asked"), default_factory=dict)
    """Configuration and bundle of its last start, or of the restart that is pending."""
    pending_action: Existing = field(metadata=stored_as("due"), default="resume")
    """Treatment of its result folder that a stopped batch had not started."""
    attempts: Annotated[int, Bounds(0, 2**31)] = 0
    """Number of starts."""
    seconds: Annotated[float, Bounds(0)] = 0.0
    """Duration of all attempts together."""
    error: str | None = None
    """Reason of a failure; None without one."""
    error_type: str | None = None
    """Name of the error's class."""
    retry: str = ""
    """The shell command that repeats it."""
    started: str | None = field(metadata=stored_as("begun"), default=None)
    """Time of the last start, ISO 8601."""
    ended: str | None = None
    """Time of its end, whatever the outcome."""
    metrics: ResultMetrics = field(metadata=stored_as("figures"), default_factory=ResultMetrics)
    """Numbers of its result."""

    @property
    def has_result(self) -> bool:
        """True if it was segmented to the end."""
        return self.state in ("finished", "finished with errors")

    @property
    def failure(self) -> dict[str, str] | None:
        """Name, state, reason and command of a slide that failed or has errors; None for any other."""
        if self.state not in ("failed", "finished with errors"):
            return None
        return {"name": self.name, "state": self.state, "reason": self.error or "", "retry": self.retry}

    def but(self, **changes: Any) -> SlideState:
        """A copy with other values."""
        return replace(self, **changes)


class States:
    """The state files in the folder of a cohort."""

    def __init__(self, out: Location) -> None:
        self._out, self.folder = out, out / STATES

    def read(self) -> dict[str, SlideState]:
        """Read all states, by name in order. Raises CohortError for a damaged one, StoreError."""
        paths = [self.folder / f"{name}{STATE_SUFFIX}" for name in state_names(self._out)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return {state.name: state for state in pool.map(_read, paths)}

    def write(self, state: SlideState) -> None:
        """Replace a slide's state. Raises StoreError."""
        values = {"format": _FORMAT, "version": _VERSION, **to_json(state)}
        write_json(self.folder / f"{state.name}{STATE_SUFFIX}", values)

    def write_all(self, states: Iterable[SlideState]) -> None:
        """Replace many states. Raises StoreError."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(self.write, states):
                pass

    def make(self) -> None:
        """Make the folder. Raises StoreError."""
        with storage_errors(self.folder):
            make_folder(self.folder)


def _read(path: Location) -> SlideState:
    with storage_errors(path):
        data = read_bytes(path)
    try:
        values = json.loads(data)
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise SchemaError(f"it has no format {_FORMAT!r}")
        if values.get("version") != _VERSION:
            raise SchemaError(f"its version is {values.get('version')!r:.20}, not {_VERSION}")
        state: SlideState = parse(SlideState, values, "", unknown="ignore")
        if "\0" in state.slide:
            raise SchemaError("its slide cannot be a file's path")
        if f"{state.name}{STATE_SUFFIX}" != path.name:
            raise SchemaError(f"its name is {state.name!r:.60}")
    except (ValueError, RecursionError) as error:  # JSON's errors, those of its encoding, and SchemaError
        raise CohortError(
            f"{path} is not a slide's state that this version can read: {error}; delete it and run the batch again, "
            "which then checks that slide's result"
        ) from error
    return state


def file_stamp(slide: str) -> tuple[int, int]:
    """(bytes, time of the last change in ns) of a slide's file; -1 each without a file."""
    try:
        found = os.stat(slide)
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def result_stamps(out: Location, results: Sequence[str]) -> list[int]:
    """Time of the last change of each result's run.json in ns; -1 without one.

    In an object store, where a request for each would take long, 0 for every result that exists.
    """
    if isinstance(out, Url):
        with storage_errors(out):
            there = set(names(out))
        return [0 if name in there else -1 for name in results]
    return [_changed_ns(out / name / "run.json") for name in results]


def result_stamp(folder: Location) -> int:
    """The stamp of one result, as from `result_stamps`; one request in an object store, whatever lies beside it."""
    run = folder / "run.json"
    if isinstance(run, Path):
        return _changed_ns(run)
    with storage_errors(run):
        return -1 if size_bytes(run) is None else 0


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1


def known_names(out: Location, states: Mapping[str, SlideState]) -> Iterator[tuple[str, str]]:
    """Yield (real path of its slide, name) of each result in `out`, also those of single runs. Raises StoreError."""
    for state in states.values():
        yield os.path.realpath(state.slide), state.name
    with storage_errors(out):
        others = [name for name in names(out) if name not in states and not name.startswith(".")]
    for name in others:
        with suppress(WsiMagnetError, LookupError, AttributeError):
            run = ResultFolder(out / name).read_run()
            if run is not None:
                yield os.path.realpath(run.slide.path), name
