"""A U-Net of two levels, as a network for wsi-magnet."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.nets.network import NetworkInfo
from wsi_magnet.schema import Bounds


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class TinyUnet(nn.Module):
    """Full resolution and a quarter of it, joined."""

    def __init__(self, n_classes: int, width: Annotated[int, Bounds(1)] = 16) -> None:
        super().__init__()
        self.fine = block(3, width)
        self.coarse = block(width, 2 * width)
        self.merge = block(3 * width, width)
        self.classify = nn.Conv2d(width, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised RGB, float (N, 3, H, W), to logits (N, C, H, W)."""
        fine = self.fine(x)
        coarse = self.coarse(F.max_pool2d(fine, 4))
        up = F.interpolate(coarse, scale_factor=4.0, mode="bilinear", align_corners=False)
        logits: Tensor = self.classify(self.merge(torch.cat([fine, up], dim=1)))
        return logits


INFO = NetworkInfo(
    "tiny-unet",
    TinyUnet,
    input_multiple=4,
    mean=(0.7, 0.6, 0.7),
    std=(0.2, 0.2, 0.2),
    head="classify",
)
