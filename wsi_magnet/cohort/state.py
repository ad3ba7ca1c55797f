"""State of each slide of a cohort: one small JSON file a slide, written atomically and read strictly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from wsi_magnet.cohort.paths import STATES
from wsi_magnet.config import Refine
from wsi_magnet.errors import CohortError, WsiMagnetError
from wsi_magnet.results.folder import Existing, ResultFolder, write_json
from wsi_magnet.results.record import RunRecord
from wsi_magnet.schema import SchemaError, parse, to_json
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, Url, make_folder, names, read_bytes, size_bytes

Stage = Literal["waiting", "running", "finished", "finished with errors", "failed"]

_FORMAT, _VERSION = "wsi-magnet-slide-state", 1
_SUFFIX = ".json"
_AT_ONCE = 16
"""Files that are read or written at once; each waits for its disk or its network, not for this program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """Gleason grading by area, as the tables show it."""

    primary: int
    secondary: int
    score: int
    grade_group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMetrics:
    """The few numbers of a result that the cohort's tables show; None where they are not known."""

    bundle: str | None = None
    bundle_sha256: str | None = None
    refine: Refine | None = None
    precision: str | None = None
    slide_mpp: tuple[float, ...] | None = None
    """(x, y) at level 0."""
    mpp: float | None = None
    """Of the mask."""
    tissue_share: float | None = None
    refined_share: float | None = None
    """Refined cells of all tissue cells of the finer scales, 0 to 1."""
    cells_not_analysed: int | None = None
    analysed_mm2: float | None = None
    not_analysed_mm2: float | None = None
    classes: Mapping[str, float] = field(default_factory=dict)
    """Area in mm² by the class's name."""
    gleason: Grade | None = None

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
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideState:
    """A slide of a cohort, as it was last seen."""

    name: str
    """Of its result folder."""
    slide: str
    """Absolute path."""
    state: Stage = "waiting"
    size_bytes: int = -1
    """Of the slide's file when it was begun; -1 where there was none."""
    mtime_ns: int = -1
    """When the file was last changed, likewise."""
    result_mtime_ns: int = -1
    """When run.json was last changed, once the slide has ended; -1 where that is not known."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Configuration and bundle that it was last begun with, or is to be begun with anew."""
    due: Existing = "resume"
    """What is still to become of what lies in its result folder, where a batch that was asked for it was stopped."""
    attempts: int = 0
    seconds: float = 0.0
    """That all attempts together took."""
    error: str | None = None
    error_type: str | None = None
    retry: str = ""
    """The command that does it again, for a shell."""
    begun: str | None = None
    ended: str | None = None
    figures: ResultMetrics = field(default_factory=ResultMetrics)

    @property
    def has_result(self) -> bool:
        """True where it was segmented to the end."""
        return self.state in ("finished", "finished with errors")

    @property
    def failure(self) -> dict[str, str] | None:
        """Name, state, reason and command, where it is not as it should be."""
        if self.state not in ("failed", "finished with errors"):
            return None
        return {"name": self.name, "state": self.state, "reason": self.error or "", "retry": self.retry}

    def but(self, **changes: Any) -> SlideState:
        """The same with other values."""
        return replace(self, **changes)


class States:
    """The state files below the folder of a cohort."""

    def __init__(self, out: Location) -> None:
        self.folder = out / STATES

    def read(self) -> dict[str, SlideState]:
        """Read all of them, by name and in order of the names. Raises CohortError for a damaged one, StoreError."""
        with storage_errors(self.folder):
            paths = [self.folder / name for name in names(self.folder) if name.endswith(_SUFFIX)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return {state.name: state for state in pool.map(_read, paths)}

    def write(self, state: SlideState) -> None:
        """Replace a slide's state. Raises StoreError."""
        write_json(self.folder / f"{state.name}{_SUFFIX}", {"format": _FORMAT, "version": _VERSION, **to_json(state)})

    def write_all(self, states: Iterable[SlideState]) -> None:
        """Replace many, some at once. Raises StoreError."""
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
        if f"{state.name}{_SUFFIX}" != path.name:
            raise SchemaError(f"its name is {state.name!r:.60}")
    except (ValueError, RecursionError) as error:  # JSON's errors, those of its encoding, and SchemaError
        raise CohortError(
            f"{path} is no state of a slide that this version reads: {error}; delete it and run the batch again, "
            "which looks at that slide's result anew"
        ) from error
    return state


def file_marks(slide: str) -> tuple[int, int]:
    """(bytes, time of the last change in ns) of a slide's file; -1 where there is none."""
    try:
        found = os.stat(slide)
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def result_marks(out: Location, results: Sequence[str]) -> list[int]:
    """When the run.json of each result was last changed, in ns; -1 where there is none.

    In an object store, where to ask for each would take long, it is 0 for every result that is there.
    """
    if isinstance(out, Url):
        with storage_errors(out):
            there = set(names(out))
        return [0 if name in there else -1 for name in results]
    return [_changed_ns(out / name / "run.json") for name in results]


def result_mark(folder: Location) -> int:
    """The mark that `result_marks` has for one result; in an object store one request, however many lie beside it."""
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
    """(where its slide really lies, name) of all results below `out`: those with a state, and those made one by one.

    Raises StoreError.
    """
    for state in states.values():
        yield os.path.realpath(state.slide), state.name
    with storage_errors(out):
        others = [name for name in names(out) if name not in states and not name.startswith(".")]
    for name in others:
        with suppress(WsiMagnetError, LookupError, AttributeError):
            run = ResultFolder(out / name).read_run()
            if run is not None:
                yield os.path.realpath(run.slide.path), name
