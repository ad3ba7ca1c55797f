"""One slide of a batch from start to end, with its state recorded."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from wsi_magnet.cohort.events import CohortEvent, Outcome, SlideEnded, SlideEvent, SlideStarted
from wsi_magnet.cohort.options import Bundles, CohortOptions
from wsi_magnet.cohort.planning import Planned
from wsi_magnet.cohort.state import ResultMetrics, SlideState, States, file_stamp, result_stamp
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
from wsi_magnet.results.events import Event, Note, Observer, ScaleStarted
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.record import RunRecord
from wsi_magnet.results.summary import RunSummary, reason_lines
from wsi_magnet.runtime.types import Executor
from wsi_magnet.segment.slide import segment_slide

_IN_A_LIST = "a CSV list with the columns slide and mpp gives each slide its own"

ENDS_BATCH = (ClusterError, OutageError, OutOfSpaceError, Stopped, KeyboardInterrupt)
"""Errors that no slide causes: the other slides would fail as well."""


@dataclass(frozen=True, slots=True)
class SlideTasks:
    """Everything that the slides of a batch share."""

    options: CohortOptions
    executor: Executor
    states: States
    observe: Callable[[CohortEvent], None]
    stopping: threading.Event
    bundles: Bundles
    """As they were when the batch started."""

    def segment(self, planned: Planned) -> SlideEnded:
        """Segment a slide. Raises only what ends the batch: `ENDS_BATCH`, StoreError for its state file, and
        CohortError for a replaced bundle.
        """
        self.bundles.require_unchanged(self.options.bundle_of(planned.slide))
        return _SlideTask(self, planned).run()


class _SlideTask:
    def __init__(self, shared: SlideTasks, planned: Planned) -> None:
        self._shared, self._planned = shared, planned
        self._started = time.monotonic()
        self._state = self._started_state()
        self._folder = ResultFolder(shared.options.out / self._state.name)

    def run(self) -> SlideEnded:
        self._shared.states.write(self._state)
        self._shared.observe(SlideStarted(self._state))
        try:
            return self._finished(self._segment())
        except ENDS_BATCH as error:
            self._stopped(error)
            raise
        except Exception as error:
            if self._shared.stopping.is_set():  # its workers have been stopped
                self._stopped(error)
                raise Stopped from error
            return self._failed(error)

    def _segment(self) -> RunSummary:
        planned, options = self._planned, self._shared.options
        if planned.contains_input is not None:
            raise ResultMismatchError(
                f"{planned.contains_input}, which this batch reads, lies where a result would go, in "
                f"{self._folder.path}; choose another output folder with -o",
                stays=True,
            )
        slide, params = planned.slide, planned.run_params
        about = {"command": options.slide_command(slide), "slide": slide.path, "options": params}
        with RunLog(self._folder.path, about) as log:

            def observe(event: Event) -> None:
                if self._shared.stopping.is_set():
                    raise Stopped
                log(event)
                if isinstance(event, ScaleStarted):
                    self._clear_pending_action()
                self._shared.observe(SlideEvent(self._state.name, event))

            try:
                summary = self._segment_with(options.config_without_default_mpp(slide), observe)
            except MissingMppError as error:
                config = options.config_of(slide)
                if config.mpp is None:
                    raise
                if error.stated:  # so that an --mpp for other slides is not taken for this one unseen
                    observe(Note(f"{error.stated}, which is not possible: --mpp {config.mpp:g} is used; {_IN_A_LIST}"))
                summary = self._segment_with(config, observe)
            log.finished(summary)
        return summary

    def _segment_with(self, config: RunConfig, observe: Observer) -> RunSummary:
        planned, options = self._planned, self._shared.options
        return segment_slide(
            planned.slide.path,
            options.out,
            name=self._state.name,
            bundle=options.bundle_of(planned.slide),
            config=config,
            execution=self._shared.executor.with_priority(-planned.position),
            existing=planned.existing,
            observe=observe,
        )

    def _clear_pending_action(self) -> None:
        """Record that the old result is gone, so that the slide is resumed from now on."""
        if self._state.pending_action != "resume":
            self._state = self._state.but(pending_action="resume")
            self._shared.states.write(self._state)

    def _started_state(self) -> SlideState:
        planned, options = self._planned, self._shared.options
        size, mtime = file_stamp(planned.slide.path)
        return planned.before.but(
            slide=planned.slide.path,
            state="running",
            size_bytes=size,
            mtime_ns=mtime,
            run_params=planned.run_params,
            pending_action=planned.existing,
            attempts=planned.before.attempts + 1,
            error=None,
            error_type=None,
            retry=options.slide_command(planned.slide, "--retry-failed"),
            started=now(),
            ended=None,
        )

    def _finished(self, summary: RunSummary) -> SlideEnded:
        before, slide, options = self._planned.before, self._planned.slide, self._shared.options
        outcome: Outcome = "finished with errors" if summary.failures else "finished"
        reasons = tuple(reason_lines(summary.failures))
        state = self._state.but(
            state=outcome,
            pending_action="resume",
            error="; ".join(reasons) or None,
            retry=options.slide_command(slide, "--restart") if reasons else self._state.retry,
            result_mtime_ns=result_stamp(self._folder.path),
            metrics=ResultMetrics.of(summary.summary, self._folder.read_run()),
            seconds=before.seconds + self._seconds,
            ended=now(),
        )
        if summary.done_before and before.attempts:  # it was only compared
            state = state.but(
                attempts=before.attempts, seconds=before.seconds, started=before.started, ended=before.ended
            )
        return self._record(state, outcome, reasons)

    def _failed(self, error: Exception) -> SlideEnded:
        # The host of a worker is named only where it is another one.
        reason = " ".join(str(error).split()).removeprefix(f"worker on {socket.gethostname()}: ")
        if not isinstance(error, WsiMagnetError):
            reason = f"internal error ({type(error).__name__}): {reason}"
        retry = self._state.retry
        if isinstance(error, ResultMismatchError) and error.cure is not None:
            retry = self._shared.options.slide_command(self._planned.slide, error.cure)
        elif isinstance(error, MissingMppError):
            reason = f"{reason.partition('; pass --mpp')[0]}; {_IN_A_LIST}, or this one alone with --mpp"
            retry = self._shared.options.slide_command(self._planned.slide, "--mpp", "MICRONS")
        if (kept := self._kept(error)) is not None:
            has_cure = getattr(error, "cure", None) is not None
            cure = f"to rebuild this slide alone: {retry}" if has_cure else "its result stays"
            return self._record(kept, "refused", (f"{reason}; {cure}",), error)
        state = self._state.but(
            state="failed",
            retry=retry,
            error=reason,
            error_type=type(error).__name__,
            seconds=self._planned.before.seconds + self._seconds,
            ended=now(),
        )
        return self._record(state, "failed", (reason,), error)

    def _kept(self, error: Exception) -> SlideState | None:
        """The state of an existing result that stays; None if none is known."""
        before = self._planned.before.but(pending_action="resume")
        if not isinstance(error, ResultMismatchError):
            stamp = result_stamp(self._folder.path)
            unchanged = self._planned.existing == "resume" and stamp == before.result_mtime_ns
            return before if before.has_result and unchanged and stamp >= 0 else None
        if not error.stays:
            return None
        if before.has_result:
            return before
        run = None
        with suppress(WsiMagnetError):
            run = self._folder.read_run()
        if run is not None and not run.running:
            return self._adopted(run)
        if run is None or (before.state == "failed" and not self._planned.made_with_other_params):
            return None
        return before.but(state="waiting") if before.state == "running" else before

    def _adopted(self, run: RunRecord) -> SlideState:
        """The state of a finished result from its run.json; without stamps, so that each batch compares it."""
        metrics = ResultMetrics()
        with suppress(LookupError, TypeError):
            metrics = ResultMetrics.of(run.summary or {}, run)
        return self._planned.before.but(
            state=run.state,
            pending_action="resume",
            size_bytes=-1,
            mtime_ns=-1,
            result_mtime_ns=-1,
            run_params={},
            error="; ".join(reason_lines(run.failures)) or None,
            error_type=None,
            retry=self._shared.options.slide_command(self._planned.slide, "--overwrite"),
            metrics=metrics,
        )

    def _stopped(self, error: BaseException) -> None:
        with suppress(StoreError):  # on a full disk "running" stays, which is resumed as well
            self._record(self._stopped_state(), "stopped", (str(error),) if str(error) else ())

    def _stopped_state(self) -> SlideState:
        """The state to resume from: an existing result stays as it was."""
        before = self._planned.before
        if self._planned.existing == "resume" and before.has_result:
            return before
        return self._state.but(state="waiting", seconds=before.seconds + self._seconds)

    def _record(
        self, state: SlideState, outcome: Outcome, reasons: tuple[str, ...], error: Exception | None = None
    ) -> SlideEnded:
        self._shared.states.write(state)
        ended = SlideEnded(state, outcome, self._seconds, reasons, error)
        self._shared.observe(ended)
        return ended

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started
