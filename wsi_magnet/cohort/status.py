"""Status of a batch, a run, or a folder of runs, read from the folder; opens no slide, needs no torch."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from wsi_magnet.cohort.paths import LOG, STATES, runs_in
from wsi_magnet.cohort.state import SlideState, States
from wsi_magnet.config import Execution
from wsi_magnet.errors import CohortError, ResultMismatchError
from wsi_magnet.results.alarms import Alarm
from wsi_magnet.results.events import RunPlanned, ScaleStarted
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.progress import RunProgress, seconds_left
from wsi_magnet.results.record import RunRecord
from wsi_magnet.results.summary import reason_lines
from wsi_magnet.schema import SchemaError, parse, stored_as, to_json
from wsi_magnet.segment.command_line import DEFAULT_REFINE, run_command, with_recorded_refine
from wsi_magnet.storage.append_log import read_lines
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, exists
from wsi_magnet.storage.lock import lock_owner

_SCALE_STARTED = ("scale started", "pass started")
"""Event of the log of a run; the second is of 0.1.0."""


@dataclass(frozen=True, slots=True)
class SlideInFlight:
    """A slide that has started and not ended."""

    name: str
    scale: int
    """Index of its scale, 0 for the coarsest."""
    scales: int
    """0 while it is being opened."""
    tiles_done: int
    tiles: int
    share: float
    """Finished share of the slide, 0 to 1."""
    attempt: int


@dataclass(frozen=True, slots=True)
class Status:
    """Status of a batch, of a run, or of the runs in a folder."""

    folder: str
    kind: Literal["batch", "run", "runs"]
    worker: str | None
    """The process that works on it, or their number; None without one."""
    silent_s: float | None
    """Seconds since the last write."""
    counts: Mapping[str, int]
    """Slides by state."""
    in_flight: tuple[SlideInFlight, ...]
    failed: tuple[Mapping[str, str], ...]
    """Name, state, reason and command of each slide that failed or has errors."""
    slides_an_hour: float | None
    left_s: float | None
    """Estimated seconds until its end."""
    left_is_limit: bool
    """True while the work of a run's finer scales is not decided: `left_s` is what it takes at most."""
    resume_command: str | None = field(metadata=stored_as("goes_on"))
    """The shell command that resumes it; for several stopped runs a line each."""
    alarms: Mapping[str, int] = field(default_factory=dict)
    """Number of slides with each kind of alarm."""

    @property
    def state(self) -> Literal["running", "stopped", "finished", "finished with failures"]:
        """The state in a word; "stopped" has not come to its end, and no process works on it."""
        if self.worker is not None:
            return "running"
        if any(self.counts.get(state) for state in ("waiting", "running", "stopped")):
            return "stopped"
        return "finished with failures" if self.failed else "finished"

    @property
    def is_well(self) -> bool:
        """True while it runs, and if it finished without failures."""
        return self.state in ("running", "finished")

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        return {"state": self.state, **to_json(self)}


def status_of(folder: Location) -> Status:
    """Status of the batch, the run or the runs in a folder. Raises CohortError for any other folder, StoreError."""
    with storage_errors(folder):
        is_batch, is_run = exists(folder / STATES), exists(folder / "run.json")
    if is_batch or is_run:
        return _of_batch(folder) if is_batch else _of_run(folder)
    if runs := runs_in(folder):
        return _of_runs(folder, runs)
    raise CohortError(f"{folder} is neither a slide's result folder nor an output folder of `run` or `batch`")


def _of_batch(folder: Location) -> Status:
    states = list(States(folder).read().values())
    worker = lock_owner(folder)
    in_flight = tuple(_in_flight(folder / s.name, s.name, s.attempts) for s in states if s.state == "running")
    log = _Log(folder / LOG)
    files = [folder / LOG, folder / STATES, *(folder / one.name / "journal.jsonl" for one in in_flight)]
    written = _last_write(log, files)
    started = log.last("batch started") or {}
    an_hour, left_s = _pace(states, in_flight, started.get("time"), written)
    return Status(
        str(folder),
        "batch",
        worker,
        None if written is None else max(0.0, time.time() - written),
        dict(Counter(state.state for state in states)),
        in_flight,
        tuple(state.failure for state in states if state.failure),
        an_hour,
        left_s,
        False,
        _resume_batch_command(started),
        dict(Counter(kind for state in states for kind in state.metrics.alarms)),
    )


def _of_run(folder: Location) -> Status:
    run = ResultFolder(folder).read_run()
    assert run is not None, "the caller has checked for run.json"
    worker = lock_owner(folder)
    state = "stopped" if run.running and worker is None else run.state
    log = _Log(folder / LOG)
    written = _last_write(log, [folder / LOG, folder / "journal.jsonl", folder / "run.json"])
    command = _resume_command(folder, run, log)
    reason = "; ".join(reason_lines(run.failures)) or None
    one = SlideState(name=folder.name, slide=run.slide.path, error=reason, retry=f"{command} --restart")
    failure = one.but(state="finished with errors").failure if reason else None
    progress, since, left_s = log.progress(folder), log.first_scale_started(), None
    if state == "running" and written is not None and since is not None:
        left_s = progress.seconds_left(written - since)
    return Status(
        str(folder),
        "run",
        worker,
        None if written is None else max(0.0, time.time() - written),
        {state: 1},
        (_in_flight(folder, folder.name, 1),) if run.running else (),
        (failure,) if failure else (),
        None,
        left_s,
        progress.at_most,
        command,
        dict.fromkeys((alarm.kind for alarm in Alarm.all_of(run.summary or {})), 1),
    )


def _of_runs(folder: Location, names: Iterable[str]) -> Status:
    """Status of single runs into one folder, added up; a damaged run.json counts as a failure."""
    runs: list[Status] = []
    failed: list[Mapping[str, str]] = []
    counts: Counter[str] = Counter()
    for name in names:
        try:
            one = _of_run(folder / name)
        except ResultMismatchError as error:
            failed.append({"name": name, "state": "unreadable", "reason": str(error), "retry": ""})
            counts["unreadable"] += 1
            continue
        runs.append(one)
        counts.update(one.counts)
        failed += one.failed
    workers = [one.worker for one in runs if one.worker is not None]
    silent = [one.silent_s for one in runs if one.silent_s is not None]
    stopped = [one.resume_command for one in runs if one.state == "stopped" and one.resume_command]
    return Status(
        str(folder),
        "runs",
        workers[0] if len(workers) == 1 else f"{len(workers)} processes" if workers else None,
        min(silent, default=None),
        dict(counts),
        tuple(slide for one in runs for slide in one.in_flight),
        tuple(failed),
        None,
        None,
        False,
        "\n".join(stopped) or None,
        dict(sum((Counter(one.alarms) for one in runs), Counter())),
    )


def _in_flight(folder: Location, name: str, attempt: int) -> SlideInFlight:
    progress = _Log(folder / LOG).progress(folder)
    if progress.tiles < 0:
        return SlideInFlight(name, 0, 0, 0, 0, 0.0, attempt)
    return SlideInFlight(name, progress.scale, progress.scales, progress.done, progress.tiles, progress.share, attempt)


def _pace(
    states: Iterable[SlideState], in_flight: Iterable[SlideInFlight], started: str | None, written: float | None
) -> tuple[float | None, float | None]:
    """(slides an hour, seconds left) from the slides that ended since the batch started; work is counted in bytes.

    started: ISO 8601; written: time of the last write, seconds since 1970.
    """
    if started is None or written is None:
        return None, None
    try:
        seconds = written - datetime.fromisoformat(started).timestamp()
    except (TypeError, ValueError):
        return None, None
    shares = {one.name: one.share for one in in_flight}
    # Slides that fail take no time.
    ended = [s for s in states if s.has_result and s.ended is not None and s.ended >= started]
    waiting = [s for s in states if s.state in ("waiting", "running")]
    done = sum(_work(s) for s in ended) + sum(_work(s) * shares.get(s.name, 0.0) for s in waiting)
    left = sum(_work(s) * (1 - shares.get(s.name, 0.0)) for s in waiting)
    an_hour = len(ended) * 3600 / seconds if seconds > 0 and ended else None
    return an_hour, seconds_left(done, left, seconds) if waiting else None


def _work(state: SlideState) -> float:
    return float(max(state.size_bytes, 1))


def _resume_batch_command(started: Mapping[str, Any]) -> str | None:
    """The command in a batch's log; None without one."""
    command, options = started.get("command"), started.get("options")
    if not isinstance(command, str) or not command:
        return None
    config = options.get("config") if isinstance(options, dict) else None
    return with_recorded_refine(
        command, config.get("refine", DEFAULT_REFINE) if isinstance(config, dict) else DEFAULT_REFINE
    )


def _resume_command(folder: Location, run: RunRecord, log: _Log) -> str:
    """The command in the log, or without one a command from run.json."""
    started = log.last("started") or {}
    if isinstance(command := started.get("command"), str):
        return with_recorded_refine(command, run.config.refine)
    return run_command(run.slide.path, str(folder.parent), run.config, None, Execution())


class _Log:
    """The lines of a log while another process writes to it. Raises StoreError if it cannot be read."""

    def __init__(self, path: Location) -> None:
        self._lines = list(read_lines(path))

    def last(self, event: str | None = None) -> dict[str, Any] | None:
        """The last line, or the last one of an event; None without one."""
        wanted = b"" if event is None else f'"event": {json.dumps(event)}'.encode()
        return _values_of(next((line for line in reversed(self._lines) if wanted in line), b"null"))

    def progress(self, folder: Location) -> RunProgress:
        """Progress of the run that started last; its tiles are -1 if the log does not have them."""
        progress = RunProgress()
        for values in self._of_last_run():
            if (event := _event_of(values)) is not None:
                progress.update(event)
        if progress.tiles >= 0:
            begin = f'{{"tile":[{progress.scale},'.encode()
            progress.done = sum(line.startswith(begin) for line in read_lines(folder / "journal.jsonl"))
        return progress

    def first_scale_started(self) -> float | None:
        """Time at which the run that started last began to compute, seconds since 1970."""
        line = next((one for one in self._of_last_run() if one.get("event") in _SCALE_STARTED), {})
        with suppress(ValueError, LookupError, TypeError):
            return datetime.fromisoformat(line["time"]).timestamp()
        return None

    def _of_last_run(self) -> Iterator[dict[str, Any]]:
        starts = [i for i, line in enumerate(self._lines) if b'"event": "started"' in line]
        words = [b'"event": "planned"', *(f'"event": "{name}"'.encode() for name in _SCALE_STARTED)]
        for line in self._lines[starts[-1] if starts else 0 :]:
            if any(word in line for word in words) and (values := _values_of(line)) is not None:
                yield values


def _values_of(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        values = json.loads(line)
        return values if isinstance(values, dict) else None
    return None


def _event_of(values: Mapping[str, Any]) -> RunPlanned | ScaleStarted | None:
    """The event of a log's line; None for a damaged one."""
    kind = RunPlanned if values.get("event") == "planned" else ScaleStarted
    given = {one.name: values[one.name] for one in fields(kind) if one.name in values}
    try:
        event: RunPlanned | ScaleStarted = parse(kind, given, "line of the log")
    except SchemaError:
        return None
    if isinstance(event, RunPlanned):
        counts, sound = (*event.cells, *event.patches), len(event.cells) == len(event.patches)
    else:
        counts = (event.scale, event.done, event.refined_cells, event.cells)
        sound = event.scale < event.scales < 100 and event.tiles > 0
    return event if sound and min(counts, default=0) >= 0 else None


def _last_write(log: _Log, files: Iterable[Location]) -> float | None:
    """Time of the last write to a log or to files of this machine, seconds since 1970; None if unknown."""
    times = []
    with suppress(ValueError, LookupError, TypeError):
        times.append(datetime.fromisoformat((log.last() or {})["time"]).timestamp())
    for path in files:
        with suppress(OSError):
            if isinstance(path, Path):
                times.append(path.stat().st_mtime)
    return max(times, default=None)
