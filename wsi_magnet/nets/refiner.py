"""The refinement module: merges a scale's own prediction with that of the coarser scales (paper, section 3.2).

N: batch, C: classes, H, W: size of the patch. Layer names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_magnet.nets.layers import conv_relu
from wsi_magnet.nets.resnet import Bottleneck, bottlenecks
from wsi_magnet.nets.spec import ChannelOrder

WIDTH = 64
"""Channels of the published module; its bottlenecks have half as many within and twice as many between."""

LIGHT_WIDTH = 16
"""Channels of the light module, for small networks, where the published one would be most of the arithmetic: it has a
fourteenth of it (`python pipelines/flops.py`)."""

RECEPTIVE_RADIUS_PX = 4
"""Receptive radius of a pixel's logits: four 3 x 3 convolutions."""

BAND_PX = 64
"""Rows computed at once on a CPU: 64 channels of them stay in its cache, which makes a patch of 576 pixels a third
quicker and takes a fifth of the memory."""

MOMENTUM = 0.01
"""Momentum of the running statistics: the published module was trained on batches of 8 and fewer."""


class RefinementModule(nn.Module):
    """Two probability maps to logits; its input has neither colour nor uncertainty. Receptive field 9 x 9.

    As published: about 85,000 weights for 5 classes, 60 tensors.
    """

    receptive_radius_px = RECEPTIVE_RADIUS_PX

    def __init__(self, n_classes: int, channel_order: ChannelOrder = "fine_first", width: int = WIDTH) -> None:
        """channel_order: order of the maps in the input channels. width: channels of the first layers, even.

        The published weights need "fine_first"; weights made with the published training program need "coarse_first",
        because it passes the maps in the opposite order of its test program.
        """
        super().__init__()
        self.channel_order = channel_order
        self.bn0 = nn.BatchNorm2d(2 * n_classes, momentum=MOMENTUM)
        self.conv1 = nn.Conv2d(2 * n_classes, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.residual = bottlenecks(width, width // 2, count=2, momentum=MOMENTUM)
        self.seg_conv = nn.Conv2d(width // 2 * Bottleneck.expansion, n_classes, 1, bias=False)

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine: O, coarse: Y, probabilities, float (N, C, H, W) each. Returns logits of R, float (N, C, H, W)."""
        maps = torch.cat((fine, coarse) if self.channel_order == "fine_first" else (coarse, fine), dim=1)
        if self.training or maps.device.type != "cpu" or maps.shape[2] <= BAND_PX + 2 * RECEPTIVE_RADIUS_PX:
            return self.merge_whole(maps)
        return torch.cat([self._merge_band(maps, top) for top in range(0, maps.shape[2], BAND_PX)], dim=2)

    def divide_logits(self, temperature: float) -> None:
        """Divide the logits by a temperature, from now on."""
        self.seg_conv.weight.div_(temperature)

    def _merge_band(self, maps: Tensor, top: int) -> Tensor:
        """Logits of BAND_PX rows, equal to those of the whole map."""
        above = min(top, RECEPTIVE_RADIUS_PX)
        band = self.merge_whole(maps[:, :, top - above : top + BAND_PX + RECEPTIVE_RADIUS_PX])
        return band[:, :, above : above + BAND_PX]

    def merge_whole(self, maps: Tensor) -> Tensor:
        """Concatenated maps, float (N, 2C, H, W), to logits (N, C, H, W), without bands."""
        x = self.bn0(maps)
        x = conv_relu(self.conv1, self.bn1, x)
        x = conv_relu(self.conv2, self.bn2, x)
        logits: Tensor = self.seg_conv(self.residual(x))
        return logits
