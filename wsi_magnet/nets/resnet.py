"""ResNet's trunk of bottlenecks (He et al. 2016), as in the published backbones: features without a classifier.

N: batch, H, W: input size. The stride lies on the 3 x 3 convolution. Layer names are those of the usual ImageNet
checkpoints, which the published ones inherit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.nets.layers import conv_relu, conv_sum_relu

RESNET50 = (3, 4, 6, 3)
RESNET101 = (3, 4, 23, 3)
"""Bottlenecks at strides 4, 8, 16 and 32."""

LAYERS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
"""Top-level names of the layers, which are those of the classifier that is trained on ImageNet."""

CHANNELS = (256, 512, 1024, 2048)
"""Channels of the features at strides 4, 8, 16 and 32."""


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3, 1 x 1 up to four times the width, each normalised; added to the input."""

    expansion: ClassVar[int] = 4

    def __init__(
        self, inputs: int, width: int, stride: int = 1, downsample: nn.Module | None = None, momentum: float = 0.1
    ) -> None:
        """downsample: projects the input to the output's shape, if needed. momentum: of batch normalisation."""
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, momentum=momentum)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, 4 * width, H / stride, W / stride)."""
        kept = x if self.downsample is None else self.downsample(x)
        x = conv_relu(self.conv1, self.bn1, x)
        x = conv_relu(self.conv2, self.bn2, x)
        return conv_sum_relu(self.conv3, self.bn3, x, kept)


def shortcut(inputs: int, outputs: int, stride: int = 1, momentum: float = 0.1) -> nn.Sequential:
    """Projection of a block's input to its output's shape."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs, momentum=momentum)
    )


def bottlenecks(inputs: int, width: int, count: int, stride: int = 1, momentum: float = 0.1) -> nn.Sequential:
    """`count` blocks; the first changes the size and the number of channels."""
    outputs = width * Bottleneck.expansion
    first = Bottleneck(inputs, width, stride, shortcut(inputs, outputs, stride, momentum), momentum)
    return nn.Sequential(first, *(Bottleneck(outputs, width, momentum=momentum) for _ in range(count - 1)))


class ResNet(nn.Module):
    """Undilated trunk: stem to stride 4, then four stages."""

    def __init__(self, blocks: Sequence[int] = RESNET50) -> None:
        """blocks: bottlenecks of each stage, RESNET50 or RESNET101."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = bottlenecks(64, 64, blocks[0])
        self.layer2 = bottlenecks(256, 128, blocks[1], stride=2)
        self.layer3 = bottlenecks(512, 256, blocks[2], stride=2)
        self.layer4 = bottlenecks(1024, 512, blocks[3], stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Float (N, 3, H, W) to features at strides 4, 8, 16 and 32, with `CHANNELS` channels, sizes rounded up."""
        x = conv_relu(self.conv1, self.bn1, x)
        c2 = self.layer1(F.max_pool2d(x, 3, stride=2, padding=1))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)
