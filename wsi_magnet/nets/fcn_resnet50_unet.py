"""TIAToolbox's `fcn_resnet50_unet` (Pocock et al. 2022): a U-Net on ResNet-50 whose skip connections are added.

Written from the names and shapes of its published parameters and its documentation. The last layer works at half
resolution; TIAToolbox enlarges the probabilities, not the logits, so the logits here are their logarithm.

N: batch, C: classes, H, W: input size, multiples of 32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.nets.layers import conv_relu
from wsi_magnet.nets.network import NetworkInfo, Trunk
from wsi_magnet.nets.resnet import CHANNELS, LAYERS, ResNet
from wsi_magnet.schema import Bounds

STEM = 64
"""Channels of the stem's features, at stride 2."""

LEAST_PROBABILITY = 1e-30
"""Replaces 0 before the logarithm."""


class Encoder(ResNet):
    """ResNet-50 with the stem's features."""

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Float (N, 3, H, W) to features at strides 2, 4, 8, 16 and 32, with 64 and then `CHANNELS` channels."""
        found = [conv_relu(self.conv1, self.bn1, x)]
        found.append(self.layer1(F.max_pool2d(found[0], 3, stride=2, padding=1)))
        for stage in (self.layer2, self.layer3, self.layer4):
            found.append(stage(found[-1]))
        return tuple(found)


def decoder_block(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    """Convolutions of 3 x 3, each after normalisation and ReLU."""

    def layers() -> Iterator[nn.Module]:
        for i in range(convolutions):
            channels = outputs if i else inputs
            yield nn.BatchNorm2d(channels)
            yield nn.ReLU()
            yield nn.Conv2d(channels, outputs, 3, padding=1, bias=False)

    return nn.Sequential(*layers())


class FcnResnet50Unet(nn.Module):
    """Encoder, four blocks that double the resolution, and a classifier at stride 2."""

    def __init__(self, n_classes: int, decoder_convolutions: Annotated[int, Bounds(1, 4)] = 2) -> None:
        """decoder_convolutions: of each block, 2 in `fcn_resnet50_unet-bcss` and 1 in `fcn-tissue_mask`."""
        super().__init__()
        c2, c3, c4, c5 = CHANNELS
        self.backbone = Encoder()
        self.conv1x1 = nn.Conv2d(c5, c4, 1, bias=False)
        steps = ((c4, c3), (c3, c2), (c2, STEM), (STEM, STEM))
        self.uplist = nn.ModuleList(decoder_block(a, b, decoder_convolutions) for a, b in steps)
        self.clf = nn.Conv2d(STEM, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """RGB / 255, float (N, 3, H, W), to logits (N, C, H, W) of which the softmax is the enlarged probability."""
        *skips, deepest = self.backbone.pyramid(x)
        found = self.conv1x1(deepest)
        for block, skip in zip(self.uplist, reversed(skips), strict=True):
            found = block(F.interpolate(found, scale_factor=2.0, mode="nearest") + skip)
        probabilities = self.clf(found).softmax(dim=1)
        large = F.interpolate(probabilities, scale_factor=2.0, mode="bilinear", align_corners=False)
        return large.clamp(min=LEAST_PROBABILITY).log()


INFO = NetworkInfo(
    "fcn_resnet50_unet",
    FcnResnet50Unet,
    input_multiple=32,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    head="clf",
    encoder=("backbone",),
    trunk=Trunk("backbone.", LAYERS, ("fc",)),
    folds_by_name=True,
    builds_on_meta=True,
    activation_bytes_per_px=800,
    unused_keys=("backbone.fc.weight", "backbone.fc.bias", "upsample2x.unpool_mat"),
)
