"""The networks of a bundle being made: a frozen backbone with its temperatures, and how maps are enlarged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Backbone:
    """A trained network and the softmax temperature of each scale."""

    network: nn.Module
    temperatures: tuple[float, ...]
    """Coarse to fine."""

    def __call__(self, images: Tensor, scale: int) -> Tensor:
        """Normalised images, float32 (N, 3, H, W), to probabilities, float32 (N, C, H, W)."""
        return (self.logits(images) / self.temperatures[scale]).softmax(dim=1)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Before temperature and softmax."""
        logits: Tensor = self.network(images)
        return logits


def double(maps: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W), bilinear with half-pixel centres."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
