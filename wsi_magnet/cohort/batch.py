"""A batch on one screen: lock the folder, decide, run several slides at once on the same workers, keep account."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from wsi_magnet.cohort.batch_log import BatchLog
from wsi_magnet.cohort.events import (
    BatchBegun,
    BatchEnded,
    BatchNote,
    BatchWorkers,
    CohortEvent,
    CohortObserver,
    SlideBegun,
    SlideEnded,
    ignore,
)
from wsi_magnet.cohort.options import Bundles, CohortOptions
from wsi_magnet.cohort.planning import plan_batch
from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.cohort.slide_task import SlideRuns
from wsi_magnet.cohort.state import SlideState, States
from wsi_magnet.cohort.tables import Tables
from wsi_magnet.cohort.threads import Crew
from wsi_magnet.cohort.workers import InFlight, described, heard, start_workers
from wsi_magnet.errors import CohortError, OutOfSpaceError, StoreError
from wsi_magnet.results.folder import require_writable
from wsi_magnet.runtime.types import Executor
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, exists
from wsi_magnet.storage.lock import FolderLock, locked_folder

PATIENCE_S = 15.0
"""How long a batch that is stopped waits for its slides to be left in order; they can be gone on with in any case."""


@dataclass(frozen=True, slots=True)
class CohortSummary:
    """How a batch ended."""

    out: Location
    states: Mapping[str, SlideState]
    """Of the batch's slides, by name, in its order."""
    worked_on: int
    """Slides that this batch took to an end."""
    refused: Mapping[str, str]
    """Why, for slides whose result was made otherwise; their states are of that result."""

    @property
    def counts(self) -> dict[str, int]:
        """Slides by state."""
        return dict(Counter(state.state for state in self.states.values()))

    @property
    def all_well(self) -> bool:
        """True where every slide is finished, and nothing of it could not be analysed."""
        return not self.refused and all(state.state == "finished" for state in self.states.values())


def segment_cohort(
    jobs: Sequence[SlideJob],
    options: CohortOptions,
    *,
    command: str = "",
    executor: Executor | None = None,
    observe: CohortObserver = ignore,
) -> CohortSummary:
    """Segment slides into `<out>/<name>/` each, and write what came of them to `<out>/summary.csv` and `.md`.

    command: that goes on with this batch, for the log. executor: workers that are there already, instead of
    `options.execution`'s. A slide that fails is recorded, and the others go on. Typed again, what is finished is left
    as it is and the rest is gone on with. Raises ResultBusyError if another batch works in the folder; CohortError and
    BundleError before anything is begun; and what ends a batch, to be gone on with: ClusterError, OutOfSpaceError, and
    with `fail_fast` CohortError for the first slide that fails.
    """
    _refuse_result(options.out)
    require_writable(options.out)
    with locked_folder(options.out, "batch") as lock:
        return _Batch(jobs, options, command, observe, lock).run(executor)


def _refuse_result(out: Location) -> None:
    """Raises CohortError for a slide's result folder, all of which is deleted where that slide is begun again."""
    with storage_errors(out):
        if exists(out / "run.json"):
            raise CohortError(f"{out} is the result of a slide; choose another output folder with -o")


class _Batch:
    def __init__(
        self,
        jobs: Sequence[SlideJob],
        options: CohortOptions,
        command: str,
        observe: CohortObserver,
        lock: FolderLock,
    ) -> None:
        self._options, self._command, self._lock = options, command, lock
        self._observe, self._log, self._telling = observe, BatchLog(options.out), threading.RLock()
        self._store, self._tables = States(options.out), Tables(options.out)
        self._states = self._store.read()
        self._bundles, self._tables_fail = Bundles(), False
        self._planned = plan_batch(jobs, options, self._states, self._bundles)
        self._to_do = [planned for planned in self._planned if planned.to_do]
        self._refused: dict[str, str] = {}
        self._worked_on = 0

    def run(self, given: Executor | None) -> CohortSummary:
        """All slides that are to be done; the tables are right however it ends."""
        begun = time.monotonic()
        self._lay_out()
        self._tell(self._beginning())
        if away := [planned.job.slide for planned in self._planned if planned.is_away]:
            self._tell(
                BatchNote(f"finished slides whose files are away, and whose results stay: {len(away)}; {away[0]}")
            )
        try:
            if self._to_do:
                with heard(lambda text: self._tell(BatchNote(text))):
                    self._on_workers(given)
        except BaseException as error:
            with suppress(StoreError):
                self._end(begun, "interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
            raise
        self._end(begun, None)
        return self._summary()

    def _lay_out(self) -> None:
        self._store.make()
        new = {p.before.name: p.laid_out for p in self._planned if self._states.get(p.before.name) != p.laid_out}
        self._store.write_all(new.values())
        self._states.update(new)

    def _on_workers(self, given: Executor | None) -> None:
        executor = given or start_workers(self._options.execution)
        stopping = threading.Event()
        crew = Crew(SlideRuns(self._options, executor, self._store, self._tell, stopping, self._bundles).do, stopping)
        try:
            in_flight = InFlight(self._options.in_flight, executor)
            self._tell(BatchWorkers(executor.description, executor.dashboard, in_flight(), described(executor)))
            for ended in crew.run(self._to_do, in_flight):
                self._lock.check()
                self._note(ended)
                self._refresh_tables()
        finally:
            crew.stop()
            if given is None:
                executor.close()
            for ended in crew.last(PATIENCE_S):
                self._note(ended, fail_fast=False)

    def _refresh_tables(self) -> None:
        """Tables that cannot be replaced now, as where one is open in a spreadsheet, are no reason to do no slides."""
        try:
            self._tables.refresh(self._states)
        except OutOfSpaceError:
            raise
        except StoreError as error:
            if not self._tables_fail:
                self._tables_fail = True
                self._tell(BatchNote(f"{error} (the batch goes on, and tries again)"))

    def _note(self, ended: SlideEnded, *, fail_fast: bool = True) -> None:
        """A slide has ended. Raises CohortError where one that fails is to end the batch."""
        self._worked_on += 1
        if ended.how == "refused":
            self._refused[ended.state.name] = ended.reason or ""
        if fail_fast and self._options.fail_fast and ended.how in ("failed", "refused"):
            raise CohortError(f"{ended.state.name}: {ended.reason} (--fail-fast ends the batch here)")

    def _tell(self, event: CohortEvent) -> None:
        """From any thread; the observer hears one thing at a time."""
        with self._telling:
            if isinstance(event, SlideBegun | SlideEnded):
                self._states[event.state.name] = event.state
            self._log(event)
            self._observe(event)

    def _beginning(self) -> BatchBegun:
        skipped: Counter[str] = Counter(planned.before.state for planned in self._planned if not planned.to_do)
        size = sum(max(0, planned.before.size_bytes) for planned in self._to_do)
        options: dict[str, Any] = {"existing": self._options.existing, "retry_failed": self._options.retry_failed}
        options |= {"config": self._options.config.to_json(), "execution": asdict(self._options.execution)}
        return BatchBegun(self._command, options, len(self._planned), len(self._to_do), size, dict(skipped))

    def _end(self, begun: float, error: str | None) -> None:
        try:
            try:
                self._tables.write(self._states)
            finally:
                self._tell(BatchEnded(time.monotonic() - begun, self._summary().counts, error))
        finally:
            self._log.close(tidy=error is None)

    def _summary(self) -> CohortSummary:
        states = {planned.before.name: self._states[planned.before.name] for planned in self._planned}
        return CohortSummary(self._options.out, states, self._worked_on, self._refused)
