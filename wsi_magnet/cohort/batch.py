"""A batch on one screen: lock the folder, plan, run several slides at once on the same workers, write the tables."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from wsi_magnet.cohort.events import (
    BatchEnded,
    BatchLog,
    BatchNote,
    BatchStarted,
    BatchWorkers,
    CohortEvent,
    CohortObserver,
    SlideEnded,
    SlideStarted,
    ignore,
)
from wsi_magnet.cohort.options import Bundles, CohortOptions
from wsi_magnet.cohort.planning import plan_batch
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.cohort.slide_task import SlideTasks
from wsi_magnet.cohort.state import SlideState, States
from wsi_magnet.cohort.tables import Tables
from wsi_magnet.cohort.threads import SlideThreads
from wsi_magnet.cohort.workers import InFlightLimit, describe_workers, forward_warnings, start_workers
from wsi_magnet.errors import CohortError, ConfigError, OutOfSpaceError, StoreError
from wsi_magnet.results.folder import require_writable
from wsi_magnet.runtime.process_setup import refuse_during_import_of_main
from wsi_magnet.runtime.types import Executor
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, exists
from wsi_magnet.storage.lock import FolderLock, locked_folder
from wsi_magnet.text import counted
from wsi_magnet.values import check, documented

STOP_WAIT_S = 15.0
"""Time that a stopped batch gives its slides to record their states; they can be resumed in any case."""


@documented
@dataclass(frozen=True, slots=True, repr=False)
class CohortSummary:
    """Outcome of a batch."""

    out: Location
    """Output folder."""
    states: Mapping[str, SlideState]
    """State of each slide by name, in the batch's order."""
    ended: frozenset[str]
    """Names of the slides that ended in this batch; the observer has had an event for each."""
    refused: Mapping[str, str]
    """Reason by name for slides whose existing result stays; their states describe that result."""

    @property
    def worked_on(self) -> int:
        """Number of slides that ended in this batch."""
        return len(self.ended)

    @property
    def counts(self) -> dict[str, int]:
        """Slides by state."""
        return dict(Counter(state.state for state in self.states.values()))

    def __repr__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in self.counts.items()) or "no slides"
        refused = f", {len(self.refused)} refused" if self.refused else ""
        return f"<CohortSummary of {self.out}: {states}{refused}>"

    @property
    def all_well(self) -> bool:
        """True if every slide is finished and all its cells were read."""
        return not self.refused and all(state.state == "finished" for state in self.states.values())


def segment_cohort(
    slides: Sequence[CohortSlide],
    options: CohortOptions,
    *,
    command: str = "",
    executor: Executor | None = None,
    observe: CohortObserver = ignore,
) -> CohortSummary:
    """Segment slides into `<out>/<name>/` each, and write their outcomes to `<out>/summary.csv` and `summary.md`.

    command: resumes this batch; for the log. executor: running workers, in place of `options.execution`'s. A slide that
    fails is recorded, and the others continue. Called again, finished slides stay and the others are resumed. Raises
    ResultBusyError if another batch works in the folder; CohortError and BundleError before anything is started; and
    errors that end a batch, which can be resumed: ClusterError, OutOfSpaceError, and with `fail_fast` CohortError for
    the first slide that fails.
    """
    refuse_during_import_of_main()
    check(CohortOptions, options, "options")
    if not isinstance(slides, Sequence) or not all(isinstance(one, CohortSlide) for one in slides):
        raise ConfigError("slides are not those that `find_slides(...).slides` has", arguments=("slides",))
    _refuse_result(options.out)
    require_writable(options.out)
    with locked_folder(options.out, "batch") as lock:
        return _Batch(slides, options, command, observe, lock).run(executor)


def _refuse_result(out: Location) -> None:
    """Raises CohortError for a slide's result folder: restarting that slide would delete all in it."""
    with storage_errors(out):
        if exists(out / "run.json"):
            raise CohortError(f"{out} is the result of a slide; choose another output folder with -o")


class _Batch:
    def __init__(
        self,
        slides: Sequence[CohortSlide],
        options: CohortOptions,
        command: str,
        observe: CohortObserver,
        lock: FolderLock,
    ) -> None:
        self._options, self._command, self._lock = options, command, lock
        self._observer, self._log, self._observing = observe, BatchLog(options.out), threading.RLock()
        self._store, self._tables = States(options.out), Tables(options.out)
        self._states = self._store.read()
        self._bundles, self._tables_fail = Bundles(), False
        self._planned = plan_batch(slides, options, self._states, self._bundles)
        self._to_do = [planned for planned in self._planned if planned.to_do]
        self._refused: dict[str, str] = {}
        self._ended: set[str] = set()

    def run(self, given: Executor | None) -> CohortSummary:
        """Segment all slides that are to be done; the tables are written however that ends."""
        started = time.monotonic()
        self._write_initial_states()
        self._observe(self._started())
        if away := [planned.slide.path for planned in self._planned if planned.is_away]:
            self._note(f"{counted(len(away), 'finished slide')} without a file, whose results stay; first: {away[0]}")
        try:
            if self._to_do:
                with forward_warnings(self._note):
                    self._run_on_workers(given)
        except BaseException as error:
            with suppress(StoreError):
                self._end(started, "interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
            raise
        self._end(started, None)
        return self._summary()

    def _write_initial_states(self) -> None:
        self._store.make()
        initial = {planned.before.name: planned.initial_state for planned in self._planned}
        new = {name: state for name, state in initial.items() if self._states.get(name) != state}
        self._store.write_all(new.values())
        self._states.update(new)

    def _run_on_workers(self, given: Executor | None) -> None:
        executor = given or start_workers(self._options.execution)
        stopping = threading.Event()
        tasks = SlideTasks(self._options, executor, self._store, self._observe, stopping, self._bundles)
        threads = SlideThreads(tasks.segment, stopping)
        try:
            in_flight, workers = InFlightLimit(self._options.in_flight, executor), describe_workers(executor)
            self._observe(BatchWorkers(executor.description, executor.dashboard, in_flight(), workers))
            for ended in threads.run(self._to_do, in_flight):
                self._lock.check()
                self._count(ended)
                self._refresh_tables()
        finally:
            threads.stop()
            if given is None:
                executor.close()
            for ended in threads.drain(STOP_WAIT_S):
                self._count(ended, fail_fast=False)

    def _refresh_tables(self) -> None:
        """Write the tables; one that cannot be replaced now, such as one open in a spreadsheet, stops no slide."""
        try:
            self._tables.refresh(self._states)
        except OutOfSpaceError:
            raise
        except StoreError as error:
            if not self._tables_fail:
                self._tables_fail = True
                self._note(f"{error} (the batch continues, and tries again)")

    def _count(self, ended: SlideEnded, *, fail_fast: bool = True) -> None:
        """Count a slide that has ended. Raises CohortError if its failure ends the batch."""
        self._ended.add(ended.state.name)
        if ended.outcome == "refused":
            self._refused[ended.state.name] = ended.reason
        if fail_fast and self._options.fail_fast and ended.outcome in ("failed", "refused"):
            raise CohortError(f"{ended.state.name}: {ended.reason} (--fail-fast ends the batch here)")

    def _note(self, text: str) -> None:
        self._observe(BatchNote(text))

    def _observe(self, event: CohortEvent) -> None:
        """Log an event and hand it to the observer; called from any thread, one event at a time."""
        with self._observing:
            if isinstance(event, SlideStarted | SlideEnded):
                self._states[event.state.name] = event.state
            self._log(event)
            self._observer(event)

    def _started(self) -> BatchStarted:
        skipped: Counter[str] = Counter(planned.before.state for planned in self._planned if not planned.to_do)
        size = sum(max(0, planned.before.size_bytes) for planned in self._to_do)
        options: dict[str, Any] = {"existing": self._options.existing, "retry_failed": self._options.retry_failed}
        options |= {"config": self._options.config.to_json(), "execution": asdict(self._options.execution)}
        return BatchStarted(self._command, options, len(self._planned), len(self._to_do), size, dict(skipped))

    def _end(self, started: float, error: str | None) -> None:
        try:
            try:
                self._tables.write(self._states)
            finally:
                self._observe(BatchEnded(time.monotonic() - started, self._summary().counts, error))
        finally:
            self._log.close(compact=error is None)

    def _summary(self) -> CohortSummary:
        states = {planned.before.name: self._states[planned.before.name] for planned in self._planned}
        return CohortSummary(self._options.out, states, frozenset(self._ended), self._refused)
