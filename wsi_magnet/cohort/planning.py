"""Plan of a batch: which slides are to be done, decided from the recorded states; no slide is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wsi_magnet.cohort.inputs import Inputs
from wsi_magnet.cohort.naming import name_slides
from wsi_magnet.cohort.options import Bundles, CohortOptions
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.cohort.state import SlideState, file_stamp, known_names, result_stamps
from wsi_magnet.results.folder import Existing


@dataclass(frozen=True, slots=True)
class Planned:
    """A slide of a batch, and what is to be done with it."""

    position: int
    """Index in the batch; earlier slides have priority."""
    slide: CohortSlide
    before: SlideState
    """State when the batch started; "waiting" for a new slide."""
    run_params: Mapping[str, Any]
    """Everything that its mask is to depend on besides the slide."""
    to_do: bool
    """False: it has ended and stays as it is."""
    existing: Existing = "resume"
    """Treatment of its result folder, as chosen for this batch or for one that was stopped before it."""
    contains_input: str | None = None
    """An input of the batch that lies in its result folder."""

    @property
    def initial_state(self) -> SlideState:
        """State to record before the slide is started, from which a stopped batch is resumed."""
        if not self.to_do or (self.existing == "resume" and self.before.has_result):
            return self.before
        waiting = self.before.but(
            state="waiting", error=None, error_type=None, ended=None, pending_action=self.existing
        )
        return waiting if self.existing == "resume" else waiting.but(run_params=self.run_params)

    @property
    def is_away(self) -> bool:
        """True if its result stays although its file is missing."""
        return self.before.has_result and not self.to_do and file_stamp(self.slide.path)[0] < 0

    @property
    def made_with_other_params(self) -> bool:
        """True if it was started before with other parameters."""
        return self.before.attempts > 0 and dict(self.before.run_params) != dict(self.run_params)


def plan_batch(
    slides: Sequence[CohortSlide], options: CohortOptions, states: Mapping[str, SlideState], bundles: Bundles
) -> list[Planned]:
    """Name all slides and decide which are to be done. Raises CohortError for names, BundleError, StoreError."""
    known = dict(known_names(options.out, states))
    inputs = Inputs(slides, options)
    known |= _names_of_moved([slide for slide in slides if slide.real_path not in known], states)
    names = name_slides(slides, known, inputs.reserved_names())
    stamps = result_stamps(options.out, names)
    return [
        replace(
            _plan(position, slide, options, bundles, (states.get(name) or _new_state(name, slide), stamp)),
            contains_input=inputs.inside(name),
        )
        for position, (slide, name, stamp) in enumerate(zip(slides, names, stamps, strict=True))
    ]


def _names_of_moved(unknown: Sequence[CohortSlide], states: Mapping[str, SlideState]) -> dict[str, str]:
    """Names of the results of moved slides by their real path now: a moved file keeps its name, size and time.

    A share that is mounted elsewhere is no reason to repeat ten thousand slides.
    """
    missing: dict[tuple[str, int, int], list[str]] = {}
    for state in states.values() if unknown else ():
        if state.size_bytes >= 0 and not os.path.lexists(state.slide):
            missing.setdefault((os.path.basename(state.slide), state.size_bytes, state.mtime_ns), []).append(state.name)
    stamps = {slide.real_path: (os.path.basename(slide.path), *file_stamp(slide.path)) for slide in unknown}
    ambiguous = {stamp for stamp, count in Counter(stamps.values()).items() if count > 1}
    return {
        real_path: missing[stamp][0]
        for real_path, stamp in stamps.items()
        if len(missing.get(stamp, ())) == 1 and stamp not in ambiguous
    }


def _new_state(name: str, slide: CohortSlide) -> SlideState:
    size, mtime = file_stamp(slide.path)
    return SlideState(name=name, slide=slide.path, size_bytes=size, mtime_ns=mtime)


def _plan(
    position: int, slide: CohortSlide, options: CohortOptions, bundles: Bundles, recorded: tuple[SlideState, int]
) -> Planned:
    """recorded: the slide's state, and the stamp of its result."""
    before, result_stamp = recorded[0].but(slide=slide.path), recorded[1]
    overrides = options.overrides_mpp(slide)
    params = bundles.run_params(options.config_of(slide), options.bundle_of(slide), override_mpp=overrides)
    if options.existing != "resume" or before.state in ("waiting", "running"):
        to_do = True
    elif before.state == "failed":
        to_do = options.retry_failed or dict(before.run_params) != params
    else:  # if its file or the options have changed, its run compares the result, and refuses if that differs
        stamps = (before.size_bytes, before.mtime_ns, before.result_mtime_ns)
        now = (*file_stamp(slide.path), result_stamp)
        # A share that is not mounted changes no result.
        away = now[0] < 0 and result_stamp >= 0 and before.size_bytes >= 0
        unchanged = result_stamp == before.result_mtime_ns if away else stamps == now and -1 not in now
        to_do = dict(before.run_params) != params or not unchanged
    existing = options.existing
    if existing == "resume" and dict(before.run_params) == params:
        existing = before.pending_action
    return Planned(position, slide, before, params, to_do, existing)
