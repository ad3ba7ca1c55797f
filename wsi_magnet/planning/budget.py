"""Which cells of a scale are refined, decided over the whole slide: MagNet-Fast (paper, section 3.4), generalised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from wsi_magnet.config import Refine
from wsi_magnet.planning.plan import Cells


def choose_refined(
    tissue: Cells, scores: Mapping[tuple[int, int], float], refine: Refine, threshold: float, budget: Budget
) -> Cells:
    """Which cells of a scale to refine, decided over the whole slide (MagNet-Fast, paper section 3.4, generalised).

    scores: mean uncertainty of the coarser result in each tissue cell, 0..1, by (row, column). "auto" takes the cells
    at or above `threshold`. A fraction takes the most uncertain ones, as many as `budget` grants this scale; equal
    scores go by row and column, so that the choice is the same every time.
    """
    if refine == "all":
        return tissue.copy()
    cells = [(row, col) for row, col in np.argwhere(tissue).tolist()]
    if refine == "auto":
        chosen = [cell for cell in cells if scores[cell] >= threshold]
    else:
        ranked = sorted(cells, key=lambda cell: (-scores[cell], cell))
        chosen = ranked[: budget.granted([scores[cell] for cell in ranked])]
    refined = np.zeros_like(tissue)
    for cell in chosen:
        refined[cell] = True
    return refined


@dataclass(frozen=True, slots=True)
class Budget:
    """How many cells may still be refined, from a scale on to the finest."""

    left: int
    cells: tuple[int, ...]
    """Tissue cells of the scale and of each finer one."""

    @staticmethod
    def of(refine: Refine, cells: Sequence[int], index: int, spent: int) -> Budget:
        """What is left of a fraction of all cells, for the scale with that index and the finer ones.

        cells: tissue cells of every scale but the coarsest, which is not refined. spent: how many have been refined.
        """
        share = 1.0 if isinstance(refine, str) else float(refine)
        return Budget(max(0, ceil(share * sum(cells) - 1e-9) - spent), tuple(cells[index - 1 :]))

    def granted(self, uncertainty: Sequence[float]) -> int:
        """How many cells of this scale to refine, so that the budget goes where it clears up most.

        uncertainty: of this scale's tissue cells, highest first. A cell takes one patch of the networks whatever its
        scale, but at the next scale it shows a quarter of the area. So a cell is worth its mean uncertainty times its
        area, and it is refined unless what is left would clear up more in the cells below the most uncertain ones,
        which are taken to be as uncertain as these.
        """
        if not self.cells[0]:
            return 0
        offers = [
            (value / 4**depth, -depth, count / self.cells[0])
            for depth, count in enumerate(self.cells)
            for value in uncertainty
        ]
        left, granted = float(self.left), 0
        for _, depth, count in sorted(offers, key=lambda offer: offer[:2], reverse=True):
            if left < count - 1e-9:
                break
            left -= count
            granted += depth == 0
        return granted
