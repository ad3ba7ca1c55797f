"""What is known of each slide of a cohort: a small file a slide, there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from wsi_magnet.cohort.paths import STATES
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.results.folder import Existing, ResultFolder, write_json
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, Url, make_folder, names, read_bytes

Stage = Literal["waiting", "running", "finished", "finished with errors", "failed"]

_FORMAT, _VERSION = "wsi-magnet-slide-state", 1
_SUFFIX = ".json"
_AT_ONCE = 16
"""Files that are read or written at once; each waits for its disk or its network, not for this program."""


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
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What the tables tell of its result."""

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
        """All of them by name, in order of the names; one that is damaged counts as not there. Raises StoreError."""
        with storage_errors(self.folder):
            paths = [self.folder / name for name in names(self.folder) if name.endswith(_SUFFIX)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = [state for state in pool.map(_read, paths, chunksize=64) if state is not None]
        return {state.name: state for state in found}

    def write(self, state: SlideState) -> None:
        """Replace a slide's state. Raises StoreError."""
        write_json(self.folder / f"{state.name}{_SUFFIX}", {"format": _FORMAT, "version": _VERSION, **asdict(state)})

    def write_all(self, states: Iterable[SlideState]) -> None:
        """Replace many, some at once. Raises StoreError."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(self.write, states):
                pass

    def make(self) -> None:
        """Make the folder. Raises StoreError."""
        with storage_errors(self.folder):
            make_folder(self.folder)


def _read(path: Location) -> SlideState | None:
    with suppress(ValueError, TypeError, LookupError, AttributeError), storage_errors(path):
        values = json.loads(read_bytes(path))
        if values.pop("format") == _FORMAT and values.pop("version") == _VERSION and values["state"] in get_args(Stage):
            return SlideState(**{f.name: values[f.name] for f in fields(SlideState) if f.name in values})
    return None


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
