"""One slide of a batch, from its begin to its end, with its account kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from wsi_magnet.cohort.events import CohortEvent, How, SlideBegun, SlideEnded, SlideTold
from wsi_magnet.cohort.options import Bundles, CohortOptions
from wsi_magnet.cohort.planning import Planned
from wsi_magnet.cohort.state import ResultMetrics, SlideState, States, file_marks, result_mark
from wsi_magnet.cohort.threads import Stopped
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import (
    ClusterError,
    MissingMppError,
    OutageError,
    OutOfSpaceError,
    ResultMismatchError,
    StoreError,
    WsiMagnetError,
)
from wsi_magnet.results.event_log import RunLog, now
from wsi_magnet.results.events import Event, Observer, ScaleStarted
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.record import RunRecord
from wsi_magnet.results.summary import RunSummary
from wsi_magnet.runtime.types import Executor
from wsi_magnet.segment.slide import segment_slide

ENDS_BATCH = (ClusterError, OutageError, OutOfSpaceError, Stopped, KeyboardInterrupt)
"""What is no slide's fault: nothing can be done for the others either."""


@dataclass(frozen=True, slots=True)
class SlideRuns:
    """What all slides of a batch share."""

    options: CohortOptions
    executor: Executor
    states: States
    tell: Callable[[CohortEvent], None]
    stopping: threading.Event
    bundles: Bundles
    """As they were when the batch began."""

    def do(self, planned: Planned) -> SlideEnded:
        """Segment a slide. What it raises ends the batch: one of `ENDS_BATCH`, StoreError for its state file, and
        CohortError for a bundle that is another one by now.
        """
        self.bundles.require_unchanged(self.options.bundle_of(planned.job))
        return _SlideRun(self, planned).do()


class _SlideRun:
    def __init__(self, shared: SlideRuns, planned: Planned) -> None:
        self._shared, self._planned = shared, planned
        self._begun = time.monotonic()
        self._state = self._begun_state()
        self._folder = ResultFolder(shared.options.out / self._state.name)

    def do(self) -> SlideEnded:
        self._shared.states.write(self._state)
        self._shared.tell(SlideBegun(self._state))
        try:
            return self._ended(self._segment())
        except ENDS_BATCH as error:
            self._stopped(error)
            raise
        except Exception as error:
            if self._shared.stopping.is_set():  # whatever it was: its workers have been taken away
                self._stopped(error)
                raise Stopped from error
            return self._failed(error)

    def _segment(self) -> RunSummary:
        planned, options = self._planned, self._shared.options
        if planned.holds is not None:
            raise ResultMismatchError(
                f"{planned.holds}, which this batch reads, lies where a result would go, in {self._folder.path}; "
                "choose another output folder with -o",
                stays=True,
            )
        about = {"command": options.slide_command(planned.job), "slide": planned.job.slide, "options": planned.asked}
        with RunLog(self._folder.path, about) as log:

            def observe(event: Event) -> None:
                if self._shared.stopping.is_set():
                    raise Stopped
                log(event)
                if isinstance(event, ScaleStarted):
                    self._emptied()
                self._shared.tell(SlideTold(self._state.name, event))

            try:
                summary = self._with(options.config_where_told(planned.job), observe)
            except MissingMppError:
                config = options.config_of(planned.job)
                if config.mpp is None:
                    raise
                summary = self._with(config, observe)
            log.finished(summary)
        return summary

    def _with(self, config: RunConfig, observe: Observer) -> RunSummary:
        planned, options = self._planned, self._shared.options
        return segment_slide(
            planned.job.slide,
            options.out,
            name=self._state.name,
            bundle=options.bundle_of(planned.job),
            config=config,
            execution=self._shared.executor.with_priority(-planned.position),
            existing=planned.existing,
            observe=observe,
        )

    def _emptied(self) -> None:
        """What was there is gone, so from now on the slide is gone on with."""
        if self._state.due != "resume":
            self._state = self._state.but(due="resume")
            self._shared.states.write(self._state)

    def _begun_state(self) -> SlideState:
        planned, options = self._planned, self._shared.options
        size, mtime = file_marks(planned.job.slide)
        return planned.before.but(
            slide=planned.job.slide,
            state="running",
            size_bytes=size,
            mtime_ns=mtime,
            asked=planned.asked,
            due=planned.existing,
            attempts=planned.before.attempts + 1,
            error=None,
            error_type=None,
            retry=options.slide_command(planned.job, "--retry-failed"),
            begun=now(),
            ended=None,
        )

    def _ended(self, summary: RunSummary) -> SlideEnded:
        before, job, options = self._planned.before, self._planned.job, self._shared.options
        how: How = "finished with errors" if summary.failures else "finished"
        reason = _not_analysed(summary.failures)
        state = self._state.but(
            state=how,
            due="resume",
            error=reason,
            retry=options.slide_command(job, "--restart") if reason else self._state.retry,
            result_mtime_ns=result_mark(self._folder.path),
            figures=ResultMetrics.of(summary.summary, self._folder.read_run()),
            seconds=before.seconds + self._seconds,
            ended=now(),
        )
        if summary.done_before and before.attempts:  # only looked at
            state = state.but(attempts=before.attempts, seconds=before.seconds, begun=before.begun, ended=before.ended)
        return self._told(state, how, reason)

    def _failed(self, error: Exception) -> SlideEnded:
        reason = " ".join(str(error).split())
        if not isinstance(error, WsiMagnetError):
            reason = f"internal error ({type(error).__name__}): {reason}"
        retry = self._state.retry
        if isinstance(error, ResultMismatchError) and error.cure is not None:
            retry = self._shared.options.slide_command(self._planned.job, error.cure)
        elif isinstance(error, MissingMppError):
            reason += ", or name it in a list (columns slide, mpp)"
            retry = self._shared.options.slide_command(self._planned.job, "--mpp", "MICRONS")
        if (kept := self._kept(error)) is not None:
            anew = (
                f"; this slide alone anew: {retry}"
                if getattr(error, "cure", None) is not None
                else "; its result stays"
            )
            return self._told(kept, "refused", f"{reason}{anew}", error)
        state = self._state.but(
            state="failed",
            retry=retry,
            error=reason,
            error_type=type(error).__name__,
            seconds=self._planned.before.seconds + self._seconds,
            ended=now(),
        )
        return self._told(state, "failed", reason, error)

    def _kept(self, error: Exception) -> SlideState | None:
        """The state of a result that was there before and stays; None where nothing is known of one."""
        before = self._planned.before.but(due="resume")
        if not isinstance(error, ResultMismatchError):
            mark = result_mark(self._folder.path)
            as_it_was = self._planned.existing == "resume" and mark == before.result_mtime_ns
            return before if before.has_result and as_it_was and mark >= 0 else None
        if not error.stays:
            return None
        if before.has_result:
            return before
        run = None
        with suppress(WsiMagnetError):
            run = self._folder.read_run()
        if run is not None and not run.running:
            return self._adopted(run)
        if run is None or (before.state == "failed" and not self._planned.made_otherwise):
            return None
        return before.but(state="waiting") if before.state == "running" else before

    def _adopted(self, run: RunRecord) -> SlideState:
        """The state of a finished result of which run.json knows; without marks, so that each batch looks closer."""
        figures = ResultMetrics()
        with suppress(LookupError, TypeError):
            figures = ResultMetrics.of(run.summary or {}, run)
        return self._planned.before.but(
            state=run.state,
            due="resume",
            size_bytes=-1,
            mtime_ns=-1,
            result_mtime_ns=-1,
            asked={},
            error=_not_analysed(run.failures),
            error_type=None,
            retry=self._shared.options.slide_command(self._planned.job, "--overwrite"),
            figures=figures,
        )

    def _stopped(self, error: BaseException) -> None:
        with suppress(StoreError):  # where the disk is full, "running" stays: it is gone on with as well
            self._told(self._left(), "stopped", str(error) or None)

    def _left(self) -> SlideState:
        """As it is where nothing came of it: a result that was there is what it was, the rest can be gone on with."""
        before = self._planned.before
        if self._planned.existing == "resume" and before.has_result:
            return before
        return self._state.but(state="waiting", seconds=before.seconds + self._seconds)

    def _told(self, state: SlideState, how: How, reason: str | None, error: Exception | None = None) -> SlideEnded:
        self._shared.states.write(state)
        ended = SlideEnded(state, how, self._seconds, reason, error)
        self._shared.tell(ended)
        return ended

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._begun


def _not_analysed(failures: Sequence[str]) -> str | None:
    """What is wrong with a slide that is complete, if anything is."""
    return f"{len(failures)} cells could not be analysed; first: {failures[0]}" if failures else None
