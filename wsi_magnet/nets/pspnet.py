"""PSPNet (Zhao et al. 2017) on ResNet-101, the published backbone for Gleason 2019.

N: batch, C: classes, H, W: input size. Layer names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.nets.layers import resize
from wsi_magnet.nets.network import NetworkInfo, Trunk
from wsi_magnet.nets.resnet import CHANNELS, LAYERS, RESNET101, ResNet

BINS = (1, 2, 3, 6)
"""Sides of the grids over which features are averaged."""

POOLED = 1024
AUXILIARY_WEIGHT = 0.4
"""Weight of the auxiliary classifier's logits, in training and inference; the main one's is 1."""


class PspNet(nn.Module):
    """PSPNet with an undilated trunk (stride 32), context pooled over the patch, and upsampling blocks to stride 4."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        features = CHANNELS[-1]
        self.feats = ResNet(RESNET101)
        self.psp = PyramidPooling(features, POOLED)
        self.drop_1 = nn.Dropout2d(0.3)
        self.up_1 = UpBlock(POOLED, 256)
        self.up_2 = UpBlock(256, 64)
        self.up_3 = UpBlock(64, 64)
        self.drop_2 = nn.Dropout2d(0.15)
        self.final = nn.Conv2d(64, n_classes, 1)
        self.classifier = nn.Conv2d(features, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, 3, H, W), normalised with ImageNet's statistics, to logits (N, C, H, W)."""
        main, auxiliary = self.heads(x)
        return (main + AUXILIARY_WEIGHT * auxiliary) / (1 + AUXILIARY_WEIGHT)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the main and the auxiliary classifier, (N, C, H, W) each; training weighs them separately."""
        features = self.feats(x)[-1]
        up = self.drop_1(self.psp(features))
        up = self.drop_2(self.up_1(up))
        up = self.drop_2(self.up_2(up))
        main = self.final(self.up_3(up))
        return resize(main, like=x), resize(self.classifier(features), like=x)


class PyramidPooling(nn.Module):
    """Features and their averages over 1, 2 x 2, 3 x 3 and 6 x 6 parts of the patch, mixed to fewer channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Conv2d(inputs, inputs, 1, bias=False)) for side in BINS
        )
        self.bottleneck = nn.Conv2d((len(BINS) + 1) * inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        pooled = [resize(stage(x), like=x) for stage in self.stages]
        return F.relu_(self.bottleneck(torch.cat([*pooled, x], dim=1)))


class UpBlock(nn.Module):
    """Upsampling by 2, then a 3 x 3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, 2H, 2W)."""
        twice = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        up: Tensor = self.conv(twice)
        return up


INFO = NetworkInfo(
    "psp",
    PspNet,
    head="final",
    trunk=Trunk("feats.", LAYERS, ("fc",)),
    encoder=("feats",),
    folds_by_name=True,
    builds_on_meta=True,
)
