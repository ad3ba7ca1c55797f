"""Selection of the cells to refine, over the whole slide: MagNet-Fast (paper, section 3.4), generalised."""

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
    """Select the tissue cells of a scale to refine: bool (rows, columns) as `tissue`.

    scores: mean uncertainty of the coarser result in each tissue cell, 0..1, by (row, column). "auto" selects the
    cells at or above `threshold`; a fraction selects the most uncertain ones, as many as `budget` grants this scale.
    Ties are broken by row and column, so that the selection is reproducible.
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
    """Number of cells that may still be refined, at a scale and all finer ones."""

    left: int
    """Remaining cells."""
    cells: tuple[int, ...]
    """Tissue cells of the scale and of each finer one."""

    @staticmethod
    def of(refine: Refine, cells: Sequence[int], index: int, spent: int) -> Budget:
        """Remaining budget of a run, from the scale with that index on.

        cells: number of tissue cells of every scale but the coarsest, which is not refined. spent: cells refined at the
        scales before.
        """
        share = 1.0 if isinstance(refine, str) else float(refine)
        return Budget(max(0, ceil(share * sum(cells) - 1e-9) - spent), tuple(cells[index - 1 :]))

    def granted(self, uncertainty: Sequence[float]) -> int:
        """Number of cells of this scale to refine, so that the budget resolves most uncertainty.

        uncertainty: mean uncertainty of this scale's tissue cells, highest first. A cell costs one patch at any scale,
        but covers a quarter of the area at the next one. So its value is its mean uncertainty times its area, and it is
        refined unless the remaining budget would resolve more in the finer cells under the most uncertain ones, which
        are assumed to be as uncertain as those.
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
