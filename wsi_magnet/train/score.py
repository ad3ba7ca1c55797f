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
        together = torch.zeros(self._parts, *probabilities.shape[2:], device=probabilities.device)
        together.index_add_(0, torch.tensor(self._part_of, device=probabilities.device), probabilities[0].float())
        predicted, truth = together.argmax(dim=0).cpu().numpy(), parts_of(sets, self._part_of)
        self.counts += confusion_matrix(truth, predicted, self._parts)[:, : self._parts]

    @property
    def miou(self) -> float:
        """Mean IoU over the parts that occur in the truth, 0 to 1."""
        return float(np.nan_to_num(mean_iou(self.counts)))
