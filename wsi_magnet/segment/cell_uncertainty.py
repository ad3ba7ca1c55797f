"""Mean uncertainty of the next scale's cells, added up from a scale's finished tiles."""

from __future__ import annotations

import numpy as np

from wsi_magnet.planning.plan import Cells
from wsi_magnet.results.journal import TileResult


class CellUncertainty:
    """Uncertainty of the next scale's cells, from the quarters of a scale's cells; eight bytes for each."""

    def __init__(self, cells: Cells) -> None:
        """cells: any array over the scale's cells."""
        quarters = (2 * cells.shape[0], 2 * cells.shape[1])
        self._totals, self._pixels = np.zeros(quarters, np.uint32), np.zeros(quarters, np.uint32)
        self.refined = 0
        """Cells that have been refined."""

    def add(self, result: TileResult) -> None:
        """Add a finished tile; adding it twice changes nothing but `refined`."""
        for cell in result.cells:
            self.refined += cell.refined
            for quarter, (total, pixels) in enumerate(cell.quarters):
                place = 2 * cell.row + quarter // 2, 2 * cell.col + quarter % 2
                self._totals[place], self._pixels[place] = total, pixels

    def of(self, tissue: Cells) -> dict[tuple[int, int], float]:
        """Mean uncertainty, 0..1, in each tissue cell of the next scale, by (row, column)."""
        return {
            (row, col): int(self._totals[row, col]) / (255 * pixels) if (pixels := int(self._pixels[row, col])) else 0.0
            for row, col in np.argwhere(tissue).tolist()
        }
