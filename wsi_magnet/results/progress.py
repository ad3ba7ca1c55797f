"""Progress of a run, and an estimate of the time left; arithmetic only.

Work is counted in patches. A cell that is not refined counts as a small part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wsi_magnet.results.events import Event, RunPlanned, ScaleFinished, ScaleStarted, TileFinished

CELLS_RATIO = 4
"""Cells of a scale for each cell of the scale before."""

UPSAMPLED = 0.04
"""Work of a cell that is not refined."""


@dataclass(slots=True)
class RunProgress:
    """Progress of one run, from its events."""

    scale: int = 0
    scales: int = 1
    mpp: float | None = None
    done: int = 0
    tiles: int = -1
    """Tiles of the scale; -1 before they are known."""
    at_most: bool = False
    """True while the work of finer scales is known only by its limit: with `--refine auto`, at the coarsest scale."""
    _cells: tuple[int, ...] = ()
    _patches: list[float] = field(default_factory=list)
    """Patches of each scale: those of later scales are estimates."""
    _decided_later: bool = False
    _before: float = 0.0
    """Work that was finished before the run was resumed."""
    _started: bool = False

    def update(self, event: Event) -> None:
        """Take an event into account."""
        match event:
            case RunPlanned():
                self._cells, self._patches = event.cells, [float(count) for count in event.patches]
                self._decided_later = self.at_most = event.decided_later
            case ScaleStarted():
                self._start(event)
            case TileFinished():
                self.done += 1
            case ScaleFinished():
                self.done = self.tiles

    @property
    def share(self) -> float:
        """Finished share of the work, 0 to 1."""
        if self.tiles < 0:
            return 0.0
        works = self._works()
        return self._done_of(works) / sum(works) if sum(works) else 1.0

    def seconds_left(self, seconds: float) -> float | None:
        """Seconds for the rest, if the tiles since the first event of a scale took `seconds`; None if it is unknown."""
        if self.tiles < 0:
            return None
        works = self._works()
        done = self._done_of(works)
        return seconds_left(done - self._before, sum(works) - done, seconds)

    def _start(self, event: ScaleStarted) -> None:
        self.scale, self.scales, self.mpp = event.scale, event.scales, event.mpp
        self.done, self.tiles = event.done, event.tiles
        if len(self._cells) != event.scales:  # of a version that did not record its plan
            self._cells = tuple(
                max(1, round(event.cells * CELLS_RATIO ** (i - event.scale))) for i in range(event.scales)
            )
            self._patches = [float(count) for count in self._cells]
        self._patches[event.scale] = event.refined_cells
        self.at_most = self._decided_later and event.scale == 0 and event.scales > 1
        if self._decided_later and event.scale:
            share = event.refined_cells / max(1, event.cells)
            for later in range(event.scale + 1, event.scales):
                self._patches[later] = share * self._cells[later]
        if not self._started:
            self._started, self._before = True, self._done_of(self._works())

    def _works(self) -> list[float]:
        return [p + UPSAMPLED * max(0.0, c - p) for p, c in zip(self._patches, self._cells, strict=True)]

    def _done_of(self, works: Sequence[float]) -> float:
        current = min(self.done / self.tiles, 1.0) if self.tiles else 1.0
        return sum(works[: self.scale]) + current * works[self.scale]


def seconds_left(done: float, left: float, seconds: float) -> float | None:
    """Seconds for the work that is left if the work done took `seconds`; None if nothing is done yet."""
    return left * seconds / done if done > 0 and seconds > 0 else None
