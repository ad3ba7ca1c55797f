"""MIoU of predictions on label sets, for early stopping and fitting; `evaluate` scores the finished bundle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsi_magnet.annotations.partition import parts_of


class Scorer:
    """Confusion counts, truth by prediction, over the parts that the labels distinguish."""

    def __init__(self, part_of: tuple[int, ...]) -> None:
        """part_of: for each class the part it belongs to, as `annotations.partition` gives it."""
        self._part_of = part_of
        self._parts = max(part_of) + 1
        self.counts: npt.NDArray[np.int64] = np.zeros((self._parts, self._parts), np.int64)

    def add(self, probabilities: Tensor, sets: npt.NDArray[np.uint32]) -> None:
        """Count one map: float (1, C, H, W), and its sets, uint32 (H, W). Probabilities of one part are summed."""
        together = torch.zeros(self._parts, *probabilities.shape[2:], device=probabilities.device)
        together.index_add_(0, torch.tensor(self._part_of, device=probabilities.device), probabilities[0].float())
        predicted, truth = together.argmax(dim=0).cpu().numpy(), parts_of(sets, self._part_of)
        known = truth >= 0
        pairs = truth[known] * self._parts + predicted[known]
        self.counts += np.bincount(pairs, minlength=self._parts**2).reshape(self._parts, self._parts)

    @property
    def miou(self) -> float:
        """Mean IoU over the parts that occur in the truth, 0 to 1."""
        hits = np.diag(self.counts)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - hits
        present = self.counts.sum(axis=1) > 0
        return float((hits[present] / union[present]).mean()) if present.any() else 0.0
