"""What is to be done for each slide of a batch, decided from what is recorded; no slide is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_magnet.cohort.naming import name_slides
from wsi_magnet.cohort.options import Bundles, CohortOptions
from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.cohort.state import SlideState, file_marks, known_names, result_marks


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

    @property
    def made_otherwise(self) -> bool:
        """True where there is something of it, begun with other options than are asked for now."""
        return self.before.attempts > 0 and dict(self.before.asked) != dict(self.asked)


def plan_batch(
    jobs: Sequence[SlideJob], options: CohortOptions, states: Mapping[str, SlideState], bundles: Bundles
) -> list[Planned]:
    """Name all slides and decide which are to be done. Raises CohortError for names, BundleError, StoreError."""
    names = name_slides(jobs, dict(known_names(options.out, states)))
    marks = result_marks(options.out, names)
    return [
        _plan(position, job, options, bundles, (states.get(name) or _unseen(name, job), mark))
        for position, (job, name, mark) in enumerate(zip(jobs, names, marks, strict=True))
    ]


def _unseen(name: str, job: SlideJob) -> SlideState:
    size, mtime = file_marks(job.slide)
    return SlideState(name=name, slide=job.slide, size_bytes=size, mtime_ns=mtime)


def _plan(
    position: int, job: SlideJob, options: CohortOptions, bundles: Bundles, found: tuple[SlideState, int]
) -> Planned:
    """found: the slide's state, and the mark of its result."""
    before, mark = found
    asked = bundles.asked(options.config_of(job), options.bundle_of(job))
    if options.existing != "resume" or before.state in ("waiting", "running"):
        to_do = True
    elif before.state == "failed":
        to_do = options.retry_failed
    else:  # where its file or the options are not as recorded, its run looks closer, and refuses if they differ
        recorded = (before.size_bytes, before.mtime_ns, before.result_mtime_ns)
        now = (*file_marks(job.slide), mark)
        to_do = dict(before.asked) != asked or recorded != now or -1 in now
    return Planned(position, job, before, asked, to_do)
