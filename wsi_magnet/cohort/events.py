"""Events of a batch for its observers, in addition to the events of each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wsi_magnet.cohort.state import SlideState
from wsi_magnet.results.events import Event

How = Literal["finished", "finished with errors", "failed", "refused", "stopped"]
"""How a slide ended in this batch: "refused" where its result stays as it is, since it was made otherwise or the slide
cannot be looked at now; "stopped" where the batch ended before it."""


@dataclass(frozen=True, slots=True)
class BatchBegun:
    """All slides are known, and what is to be done."""

    command: str
    """That goes on with it."""
    options: Mapping[str, Any]
    slides: int
    to_do: int
    bytes_to_do: int
    """Of the slides' files: how much work there is, about."""
    skipped: Mapping[str, int]
    """Slides that nothing is done for, by their state."""


@dataclass(frozen=True, slots=True)
class BatchWorkers:
    """The workers are there."""

    description: str
    dashboard: str | None
    in_flight: int
    workers: Mapping[str, Any]
    """What each says of itself, by its name."""


@dataclass(frozen=True, slots=True)
class BatchNote:
    """Something of the whole batch that the user should know."""

    text: str


@dataclass(frozen=True, slots=True)
class SlideBegun:
    """Somebody has begun with a slide."""

    state: SlideState


@dataclass(frozen=True, slots=True)
class SlideTold:
    """A slide's run tells something."""

    name: str
    event: Event


@dataclass(frozen=True, slots=True)
class SlideEnded:
    """A slide has ended, one way or the other."""

    state: SlideState
    how: How
    seconds: float
    reason: str | None = None
    """Why, where it is not well."""
    error: Exception | None = None
    """What its run raised."""


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """Nothing more comes."""

    seconds: float
    counts: Mapping[str, int]
    """Slides of the batch by their state."""
    error: str | None = None
    """What ended it before all slides were done."""


CohortEvent = BatchBegun | BatchWorkers | BatchNote | SlideBegun | SlideTold | SlideEnded | BatchEnded
CohortObserver = Callable[[CohortEvent], None]


def ignore(event: CohortEvent) -> None:
    """The observer of those who do not watch."""
