"""ResNet-50 with a feature pyramid (Lin et al. 2017), the published backbone for DeepGlobe.

N: batch, C: classes, H, W: input size. Layer names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_magnet.nets.layers import resize
from wsi_magnet.nets.network import NetworkInfo, Trunk
from wsi_magnet.nets.resnet import CHANNELS, LAYERS, RESNET50, ResNet

LATERAL = 256
SMOOTH = 128


class Fpn(nn.Module):
    """Feature pyramid without activation or normalisation: above the trunk everything is linear."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        c2, c3, c4, c5 = CHANNELS
        self.resnet_backbone = ResNet(RESNET50)
        self.toplayer = nn.Conv2d(c5, LATERAL, 1)
        self.latlayer1 = nn.Conv2d(c4, LATERAL, 1)
        self.latlayer2 = nn.Conv2d(c3, LATERAL, 1)
        self.latlayer3 = nn.Conv2d(c2, LATERAL, 1)
        self.smooth1_1, self.smooth1_2 = _smooth()
        self.smooth2_1, self.smooth2_2 = _smooth()
        self.smooth3_1, self.smooth3_2 = _smooth()
        self.smooth4_1, self.smooth4_2 = _smooth()
        self.classify = nn.Conv2d(4 * SMOOTH, n_classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, 3, H, W), normalised with ImageNet's statistics, to logits (N, C, H, W)."""
        c2, c3, c4, c5 = self.resnet_backbone(x)
        p5 = self.toplayer(c5)
        p4 = _add_coarser(self.latlayer1(c4), p5)
        p3 = _add_coarser(self.latlayer2(c3), p4)
        p2 = _add_coarser(self.latlayer3(c2), p3)
        levels = (
            self.smooth1_2(self.smooth1_1(p5)),
            self.smooth2_2(self.smooth2_1(p4)),
            self.smooth3_2(self.smooth3_1(p3)),
            self.smooth4_2(self.smooth4_1(p2)),
        )
        merged = torch.cat([resize(level, like=p2) for level in levels], dim=1)
        return resize(self.classify(merged), like=x)


def _smooth() -> tuple[nn.Conv2d, nn.Conv2d]:
    return nn.Conv2d(LATERAL, LATERAL, 3, padding=1), nn.Conv2d(LATERAL, SMOOTH, 3, padding=1)


def _add_coarser(lateral: Tensor, coarser: Tensor) -> Tensor:
    return lateral + resize(coarser, like=lateral)


INFO = NetworkInfo(
    "fpn",
    Fpn,
    head="classify",
    trunk=Trunk("resnet_backbone.", LAYERS, ("fc",)),
    encoder=("resnet_backbone",),
    folds_by_name=True,
    builds_on_meta=True,
)
