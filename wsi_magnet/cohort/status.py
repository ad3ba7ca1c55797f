"""How a batch or a run is doing, told from outside by what it leaves in its folder; opens no slide, needs no torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from wsi_magnet.cohort.eta import seconds_left, share_done
from wsi_magnet.cohort.logs import Log, changed, tiles_done
from wsi_magnet.cohort.paths import LOG, STATES
from wsi_magnet.cohort.state import SlideState, States
from wsi_magnet.config import Execution
from wsi_magnet.errors import CohortError
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.record import RunRecord
from wsi_magnet.segment.command_line import run_command
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, exists, names
from wsi_magnet.storage.lock import lock_owner

_LOOKED_AT, _NAMED = 100, 5
"""Of what lies in a folder that is neither: so many are looked at for results, and named."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A slide that is begun and has not ended."""

    name: str
    scale: int
    """From 0, the coarsest."""
    scales: int
    """0 where it is being opened."""
    tiles_done: int
    tiles: int
    share: float
    """0 to 1, of the slide."""
    attempt: int


@dataclass(frozen=True, slots=True)
class Status:
    """How it is doing."""

    folder: str
    kind: Literal["batch", "run"]
    worker: str | None
    """Who works on it now; None where nobody does."""
    silent_s: float | None
    """Seconds since anything was last written."""
    counts: Mapping[str, int]
    """Slides by state."""
    in_flight: tuple[InFlight, ...]
    failed: tuple[Mapping[str, str], ...]
    """Name, state, reason and command of each slide that is not as it should be."""
    slides_an_hour: float | None
    left_s: float | None
    goes_on: str | None
    """The command that goes on with it."""

    @property
    def state(self) -> Literal["running", "stopped", "finished", "finished with failures"]:
        """In a word: "stopped" is one that nobody works on, and that has not come to its end."""
        if self.worker is not None:
            return "running"
        if self.counts.get("waiting") or self.counts.get("running"):
            return "stopped"
        return "finished with failures" if self.failed else "finished"

    @property
    def is_well(self) -> bool:
        """True while it runs, and where all is finished as it should be."""
        return self.state in ("running", "finished")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"state": self.state, **asdict(self)}


def status_of(folder: Location) -> Status:
    """How the batch or the run in a folder is doing. Raises CohortError for any other folder, StoreError."""
    with storage_errors(folder):
        is_batch, is_run = exists(folder / STATES), exists(folder / "run.json")
    if is_batch or is_run:
        return _of_batch(folder) if is_batch else _of_run(folder)
    with storage_errors(folder):
        inside = [] if isinstance(folder, Path) and not folder.is_dir() else names(folder)[:_LOOKED_AT]
        results = [name for name in inside if exists(folder / name / "run.json")]
    told = f"; ask for one of the results in it: {', '.join(results[:_NAMED])}" if results else ""
    raise CohortError(f"{folder} is neither the output of a batch nor a slide's result folder{told}")


def _of_batch(folder: Location) -> Status:
    states = list(States(folder).read().values())
    worker = lock_owner(folder)
    in_flight = tuple(_in_flight(folder / s.name, s.name, s.attempts) for s in states if s.state == "running")
    log = Log(folder / LOG)
    heard = _heard(log, [folder / LOG, folder / STATES, *(folder / one.name / "journal.jsonl" for one in in_flight)])
    begun = log.last("batch started") or {}
    an_hour, left_s = _pace(states, in_flight, begun.get("time"), heard)
    return Status(
        str(folder),
        "batch",
        worker,
        None if heard is None else max(0.0, time.time() - heard),
        dict(Counter(state.state for state in states)),
        in_flight,
        tuple(state.failure for state in states if state.failure),
        an_hour,
        left_s,
        begun.get("command") or None,
    )


def _of_run(folder: Location) -> Status:
    run = ResultFolder(folder).read_run()
    assert run is not None, "the caller has seen its run.json"
    state = run.state
    log = Log(folder / LOG)
    heard = _heard(log, [folder / LOG, folder / "journal.jsonl", folder / "run.json"])
    command = _run_command(folder, run, log)
    one = SlideState(name=folder.name, slide=run.slide.path)
    failures = run.failures
    reason = f"{len(failures)} cells could not be analysed; first: {failures[0]}" if failures else None
    bad = one.but(state="finished with errors" if failures else "finished", error=reason, retry=f"{command} --restart")
    return Status(
        str(folder),
        "run",
        lock_owner(folder),
        None if heard is None else max(0.0, time.time() - heard),
        {state: 1},
        (_in_flight(folder, folder.name, 1),) if state == "running" else (),
        (bad.failure,) if bad.failure else (),
        None,
        None,
        command,
    )


def _in_flight(folder: Location, name: str, attempt: int) -> InFlight:
    told = Log(folder / LOG).last("pass started")
    if told is None:
        return InFlight(name, 0, 0, 0, 0, 0.0, attempt)
    scale, scales, tiles = int(told["scale"]), int(told["scales"]), int(told["tiles"])
    done = tiles_done(folder / "journal.jsonl", scale)
    return InFlight(name, scale, scales, done, tiles, share_done(scale, scales, done, tiles), attempt)


def _pace(
    states: Iterable[SlideState], in_flight: Iterable[InFlight], begun: str | None, heard: float | None
) -> tuple[float | None, float | None]:
    """(slides an hour, seconds left) by what has ended since the batch began; time is counted by the slides' bytes."""
    if begun is None or heard is None:
        return None, None
    seconds = heard - datetime.fromisoformat(begun).timestamp()
    shares = {one.name: one.share for one in in_flight}
    ended = [s for s in states if s.has_result and s.ended is not None and s.ended >= begun]  # to fail takes no time
    left = [s for s in states if s.state in ("waiting", "running")]
    done = sum(_work(s) for s in ended) + sum(_work(s) * shares.get(s.name, 0.0) for s in left)
    ahead = sum(_work(s) * (1 - shares.get(s.name, 0.0)) for s in left)
    an_hour = len(ended) * 3600 / seconds if seconds > 0 and ended else None
    return an_hour, seconds_left(done, ahead, seconds) if left else None


def _work(state: SlideState) -> float:
    return float(max(state.size_bytes, 1))


def _heard(log: Log, files: Iterable[Location]) -> float | None:
    """When anything was last written, seconds since 1970; None where that is not known."""
    told = [] if log.told_at is None else [log.told_at]
    return max([*changed(files), *told], default=None)


def _run_command(folder: Location, run: RunRecord, log: Log) -> str:
    """As it was typed, where the log knows it; else made of what run.json knows."""
    told = log.last("started") or {}
    if isinstance(command := told.get("command"), str):
        return command
    return run_command(run.slide.path, str(folder.parent), run.config, None, Execution())
