"""How far a slide is, and how long the others will take; arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_magnet.results.events import Event, ScaleFinished, ScaleStarted, TileFinished

TIMES_AS_MUCH = 4
"""Work of a scale against the one before it: four times as many cells."""


def share_done(scale: int, scales: int, done: int, tiles: int) -> float:
    """0 to 1: how much of a slide is done, with so many of the tiles of its scale.

    scale: from 0, the coarsest.
    """
    weights = [float(TIMES_AS_MUCH) ** i for i in range(scales)]
    begun = weights[scale] * (min(done / tiles, 1.0) if tiles else 1.0)
    return (sum(weights[:scale]) + begun) / sum(weights)


@dataclass(slots=True)
class Pace:
    """How far one slide is, by what its run tells."""

    scale: int = 0
    scales: int = 1
    mpp: float | None = None
    done: int = 0
    tiles: int = -1
    """Of the scale; -1 before it is known."""

    def hear(self, event: Event) -> None:
        """Something was told."""
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
        """0 to 1."""
        return 0.0 if self.tiles < 0 else share_done(self.scale, self.scales, self.done, self.tiles)


def seconds_left(done: float, left: float, seconds: float) -> float | None:
    """For what is left, where what is done took so long; None where nothing is done yet."""
    return left * seconds / done if done > 0 and seconds > 0 else None
