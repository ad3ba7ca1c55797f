"""What a run tells whoever watches it: small frozen values, so that a progress bar is a plug-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsi_magnet.results.journal import TileResult


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know; not an error."""

    text: str


@dataclass(frozen=True, slots=True)
class WorkersReady:
    """The workers are there."""

    description: str
    dashboard: str | None


@dataclass(frozen=True, slots=True)
class ScaleStarted:
    """A scale is begun, or gone on with."""

    scale: int
    scales: int
    mpp: float
    tiles: int
    done: int
    refined_cells: int
    cells: int


@dataclass(frozen=True, slots=True)
class TileFinished:
    """A tile is in the store and in the journal."""

    result: TileResult


@dataclass(frozen=True, slots=True)
class ScaleFinished:
    """A scale is complete and the mask shows it."""

    scale: int
    mpp: float
    seconds: float


Event = Note | WorkersReady | ScaleStarted | TileFinished | ScaleFinished
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer of those who do not watch."""


def together(*observers: Observer) -> Observer:
    """An observer that tells several, in their order."""

    def observe(event: Event) -> None:
        for one in observers:
            one(event)

    return observe
