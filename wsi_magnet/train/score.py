"""MIoU of predictions on label sets, for early stopping and fitting; `evaluate` scores the finished bundle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsi_magnet.annotations.partition import parts_of
from wsi_magnet.metrics.confusion import Confusion, confusion_matrix, mean_iou


class ConfusionCounts:
    """Confusion counts, truth by prediction, over the parts that the labels distinguish."""

    def __init__(self, part_of: tuple[int, ...]) -> None:
        """part_of: for each class the part it belongs to, as `annotations.partition` gives it."""
        self._part_of = part_of
        self._parts = max(part_of) + 1
        self.counts: Confusion = np.zeros((self._parts, self._parts), np.int64)

    def add(self, probabilities: Tensor, sets: npt.NDArray[np.uint32]) -> None:
        """Count one map: float (1, C, H, W), and its sets, uint32 (H, W). Probabilities of one part are summed."""
        predicted, truth = _predicted_parts(probabilities, self._part_of), parts_of(sets, self._part_of)
        self.counts += confusion_matrix(truth, predicted, self._parts)[:, : self._parts]

    @property
    def miou(self) -> float:
        """Mean IoU over the parts that occur in the truth, 0 to 1."""
        return float(np.nan_to_num(mean_iou(self.counts)))


def block_counts(
    probabilities: Tensor, sets: npt.NDArray[np.uint32], part_of: tuple[int, ...], side_px: int
) -> Confusion:
    """Confusion counts of a map's blocks, row by row: int64 (n, P, P). Arguments as of `ConfusionCounts`.

    side_px: side of a block; divides those of the map.
    """
    parts = max(part_of) + 1
    pairs = parts * parts_of(sets, part_of) + _predicted_parts(probabilities, part_of)
    rows, cols = (length // side_px for length in pairs.shape)
    blocks = pairs.reshape(rows, side_px, cols, side_px).swapaxes(1, 2).reshape(rows * cols, -1)
    counted = [np.bincount(one[one >= 0], minlength=parts**2) for one in blocks]  # negative: not labelled
    return np.asarray(counted, np.int64).reshape(-1, parts, parts)


def _predicted_parts(probabilities: Tensor, part_of: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Likeliest part of each pixel, (H, W)."""
    together = torch.zeros(max(part_of) + 1, *probabilities.shape[2:], device=probabilities.device)
    together.index_add_(0, torch.tensor(part_of, device=probabilities.device), probabilities[0].float())
    return together.argmax(dim=0).cpu().numpy()
