"""Events of a run, as small frozen values for observers such as a progress bar or a log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsi_magnet.results.journal import TileResult
from wsi_magnet.values import documented


@documented
@dataclass(frozen=True, slots=True)
class Note:
    """A note for the user; not an error."""

    text: str
    """A sentence, without a line break."""


@documented
@dataclass(frozen=True, slots=True)
class WorkersReady:
    """Workers are ready."""

    description: str
    """The workers, in words."""
    dashboard: str | None
    """Address of Dask's dashboard; None without one."""


@documented
@dataclass(frozen=True, slots=True)
class RunPlanned:
    """The work of a run is known."""

    cells: tuple[int, ...]
    """Tissue cells of each scale."""
    patches: tuple[int, ...]
    """Patches that the networks process at each scale."""
    decided_later: bool
    """True with `--refine auto`: the patches of a scale are known when it starts, and these are limits."""


@documented
@dataclass(frozen=True, slots=True)
class ScaleStarted:
    """A scale is started or resumed."""

    scale: int
    """Index of the scale, 0 = coarsest."""
    scales: int
    """Number of scales."""
    mpp: float
    """Microns per pixel."""
    tiles: int
    """Tiles of the scale."""
    done: int
    """Tiles that were finished before."""
    refined_cells: int
    """Cells that are refined."""
    cells: int
    """Cells with tissue."""


@documented
@dataclass(frozen=True, slots=True)
class TileFinished:
    """A tile is stored, and recorded in the journal."""

    result: TileResult
    """Record of the tile."""


@documented
@dataclass(frozen=True, slots=True)
class ScaleFinished:
    """A scale is complete, and visible in the mask."""

    scale: int
    """Index of the scale, 0 = coarsest."""
    mpp: float
    """Microns per pixel."""
    seconds: float
    """Time since it was started or resumed."""


Event = Note | WorkersReady | RunPlanned | ScaleStarted | TileFinished | ScaleFinished
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Observer that discards events."""


def together(*observers: Observer) -> Observer:
    """Observer that passes events to several others, in order."""

    def observe(event: Event) -> None:
        for one in observers:
            one(event)

    return observe
