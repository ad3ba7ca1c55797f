"""A segmentation network for CPUs: few channels at fine strides, depth at coarse ones.

N: batch, C: classes, H, W: input size. Strides are relative to the input. The design is our own, from common parts.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.nets.network import NetworkInfo
from wsi_magnet.schema import Bounds

STRIDE = 32
"""Height and width of the input must be multiples of this."""

BLOCKS = (1, 2, 2, 2)
"""Residual blocks at strides 4, 8, 16 and 32."""


class SmallNet(nn.Module):
    """Residual encoder down to stride 32, top-down decoder at stride 4, bilinear to the input's size.

    Plain 3x3 convolutions throughout: depthwise ones have a fifth of the arithmetic, but on a CPU they wait for
    memory, and the network takes as long as this one.
    """

    def __init__(self, n_classes: int, width: Annotated[int, Bounds(1)] = 16) -> None:
        """n_classes: channels of the output. width: channels of the stem, of which all others are multiples."""
        super().__init__()
        self.n_classes = n_classes
        widths = (2 * width, 4 * width, 6 * width, 8 * width)
        decoder = 3 * width
        self.stem = nn.Sequential(conv_bn(3, width, stride=2), conv_bn(width, widths[0], stride=2))
        self.stages = nn.ModuleList(
            nn.Sequential(
                conv_bn(before, after, stride=2) if index else nn.Identity(),
                *(ResidualBlock(after) for _ in range(BLOCKS[index])),
            )
            for index, (before, after) in enumerate(pairwise((widths[0], *widths)))
        )
        self.laterals = nn.ModuleList(nn.Conv2d(channels, decoder, 1) for channels in widths)
        self.smooth = conv_bn(decoder, decoder)
        self.classify = nn.Conv2d(decoder, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of normalised patches.

        x: float (N, 3, H, W), H and W multiples of 32. Returns logits, the same dtype, (N, C, H, W).
        """
        if x.shape[-2] % STRIDE or x.shape[-1] % STRIDE:
            raise ValueError(f"SmallNet needs sides that are multiples of {STRIDE}; got {x.shape[-2]} x {x.shape[-1]}")
        features = self.encode(x)
        merged = self.laterals[-1](features[-1])
        for lateral, feature in zip(list(self.laterals)[-2::-1], features[-2::-1], strict=True):
            merged = lateral(feature) + upsample(merged, feature.shape[-2:])
        return upsample(self.classify(self.smooth(merged)), x.shape[-2:])

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features at strides 4, 8, 16 and 32, each (N, channels, H / stride, W / stride)."""
        features = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class ResidualBlock(nn.Module):
    """Residual block of two 3x3 convolutions; size and channels stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_bn(channels, channels)
        self.second = conv_bn(channels, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same."""
        return F.relu(x + self.second(self.first(x)))


def conv_bn(inputs: int, outputs: int, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """3x3 convolution without bias, batch normalisation, and an optional ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def upsample(x: Tensor, size_hw: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear resizing with half-pixel centres (align_corners=False)."""
    return F.interpolate(x, size=tuple(size_hw), mode="bilinear", align_corners=False)


INFO = NetworkInfo(
    "small", SmallNet, input_multiple=STRIDE, head="classify", encoder=("stem", "stages"), builds_on_meta=True
)
