"""What is to be done for each slide of a batch, decided from what is recorded; no slide is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wsi_magnet.cohort.inputs import Inputs
from wsi_magnet.cohort.naming import name_slides
from wsi_magnet.cohort.options import Bundles, CohortOptions
from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.cohort.state import SlideState, file_marks, known_names, result_marks
from wsi_magnet.results.folder import Existing


@dataclass(frozen=True, slots=True)
class Planned:
    """A slide of a batch."""

    position: int
    """In the order of the batch, from 0: work of earlier slides is begun first."""
    job: SlideJob
    before: SlideState
    """As it was when the batch began; of a slide that nobody has seen, "waiting"."""
    asked: Mapping[str, Any]
    """What its mask will depend on besides the slide."""
    to_do: bool
    """False where it has ended and is left as it is."""
    existing: Existing = "resume"
    """What becomes of what lies in its result folder: as this batch was asked, or one that was stopped before it."""
    holds: str | None = None
    """An input of the batch that lies in its result folder."""

    @property
    def laid_out(self) -> SlideState:
        """Its state before it is begun, by which a batch that is stopped can be gone on with."""
        if not self.to_do or (self.existing == "resume" and self.before.has_result):
            return self.before
        unbegun = self.before.but(state="waiting", error=None, error_type=None, ended=None, due=self.existing)
        return unbegun if self.existing == "resume" else unbegun.but(asked=self.asked)

    @property
    def is_away(self) -> bool:
        """True where it is left as it is although its file is not there."""
        return self.before.has_result and not self.to_do and file_marks(self.job.slide)[0] < 0

    @property
    def made_otherwise(self) -> bool:
        """True where there is something of it, begun with other options than are asked for now."""
        return self.before.attempts > 0 and dict(self.before.asked) != dict(self.asked)


def plan_batch(
    jobs: Sequence[SlideJob], options: CohortOptions, states: Mapping[str, SlideState], bundles: Bundles
) -> list[Planned]:
    """Name all slides and decide which are to be done. Raises CohortError for names, BundleError, StoreError."""
    known = dict(known_names(options.out, states))
    inputs = Inputs(jobs, options)
    known |= _moved([job for job in jobs if job.real not in known], states)
    names = name_slides(jobs, known, inputs.holding())
    marks = result_marks(options.out, names)
    return [
        replace(
            _plan(position, job, options, bundles, (states.get(name) or _unseen(name, job), mark)),
            holds=inputs.inside(name),
        )
        for position, (job, name, mark) in enumerate(zip(jobs, names, marks, strict=True))
    ]


def _moved(strange: Sequence[SlideJob], states: Mapping[str, SlideState]) -> dict[str, str]:
    """Names of results by where their slides lie now: files of the same name, size and time whose place is another.

    A share that is mounted elsewhere is no reason to do ten thousand slides again.
    """
    left: dict[tuple[str, int, int], list[str]] = {}
    for state in states.values() if strange else ():
        if state.size_bytes >= 0 and not os.path.lexists(state.slide):
            left.setdefault((os.path.basename(state.slide), state.size_bytes, state.mtime_ns), []).append(state.name)
    marks = {job.real: (os.path.basename(job.slide), *file_marks(job.slide)) for job in strange}
    twice = {mark for mark, count in Counter(marks.values()).items() if count > 1}
    return {real: left[mark][0] for real, mark in marks.items() if len(left.get(mark, ())) == 1 and mark not in twice}


def _unseen(name: str, job: SlideJob) -> SlideState:
    size, mtime = file_marks(job.slide)
    return SlideState(name=name, slide=job.slide, size_bytes=size, mtime_ns=mtime)


def _plan(
    position: int, job: SlideJob, options: CohortOptions, bundles: Bundles, found: tuple[SlideState, int]
) -> Planned:
    """found: the slide's state, and the mark of its result."""
    before, mark = found[0].but(slide=job.slide), found[1]
    overriding = options.overrides_mpp(job)
    asked = bundles.asked(options.config_of(job), options.bundle_of(job), override_mpp=overriding)
    if options.existing != "resume" or before.state in ("waiting", "running"):
        to_do = True
    elif before.state == "failed":
        to_do = options.retry_failed or dict(before.asked) != asked
    else:  # where its file or the options are not as recorded, its run looks closer, and refuses if they differ
        recorded = (before.size_bytes, before.mtime_ns, before.result_mtime_ns)
        now = (*file_marks(job.slide), mark)
        away = now[0] < 0 and mark >= 0 and before.size_bytes >= 0  # a share that is not mounted changes no result
        as_it_was = mark == before.result_mtime_ns if away else recorded == now and -1 not in now
        to_do = dict(before.asked) != asked or not as_it_was
    existing = options.existing
    if existing == "resume" and dict(before.asked) == asked:
        existing = before.due
    return Planned(position, job, before, asked, to_do, existing)
