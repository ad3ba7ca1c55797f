"""Progress of a slide, and an estimate of the time left; arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_magnet.results.events import Event, ScaleFinished, ScaleStarted, TileFinished

WORK_RATIO = 4
"""Work of a scale relative to the one before it: four times as many cells."""


def share_done(scale: int, scales: int, done: int, tiles: int) -> float:
    """Finished share of a slide's work, 0 to 1.

    scale: index of the current scale, 0 for the coarsest. done, tiles: finished and all tiles of this scale.
    """
    weights = [float(WORK_RATIO) ** i for i in range(scales)]
    current = weights[scale] * (min(done / tiles, 1.0) if tiles else 1.0)
    return (sum(weights[:scale]) + current) / sum(weights)


@dataclass(slots=True)
class SlideProgress:
    """Progress of one slide, from the events of its run."""

    scale: int = 0
    scales: int = 1
    mpp: float | None = None
    done: int = 0
    tiles: int = -1
    """Tiles of the scale; -1 before they are known."""

    def update(self, event: Event) -> None:
        """Take an event into account."""
        match event:
            case ScaleStarted():
                self.scale, self.scales, self.mpp = event.scale, event.scales, event.mpp
                self.done, self.tiles = event.done, event.tiles
            case TileFinished():
                self.done += 1
            case ScaleFinished():
                self.done = self.tiles

    @property
    def share(self) -> float:
        """Finished share of the work, 0 to 1."""
        return 0.0 if self.tiles < 0 else share_done(self.scale, self.scales, self.done, self.tiles)


def seconds_left(done: float, left: float, seconds: float) -> float | None:
    """Seconds for the work that is left if the work done took `seconds`; None if nothing is done yet."""
    return left * seconds / done if done > 0 and seconds > 0 else None
