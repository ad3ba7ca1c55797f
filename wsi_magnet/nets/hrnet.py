"""HRNetV2-W18 "small v2" (Wang et al. 2020): parallel branches at four resolutions, the finest at full size.

N: batch, H, W: input size. Layer names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.nets.layers import conv_relu, conv_sum_relu, resize_corners
from wsi_magnet.nets.resnet import Bottleneck, bottlenecks

WIDTHS = (18, 36, 72, 144)
"""Channels of the branches at strides 1, 2, 4 and 8."""

BLOCKS = 2
"""Basic blocks per branch of each module, and bottlenecks of the first stage."""

MODULES = (1, 3, 2)
"""Modules of stages 2, 3 and 4."""

LAYERS = (
    "conv1",
    "bn1",
    "conv2",
    "bn2",
    "layer1",
    "transition1",
    "stage2",
    "transition2",
    "stage3",
    "transition3",
    "stage4",
)
"""Top-level names of the layers, which are those of the classifier that is trained on ImageNet."""

FEATURES = sum(WIDTHS)
MOMENTUM = 0.01
"""Momentum of batch normalisation's running statistics."""


def conv_bn(inputs: int, outputs: int, side: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution without bias, batch normalisation, and an optional ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, side, stride=stride, padding=side // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=MOMENTUM),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class BasicBlock(nn.Module):
    """Residual block of two 3 x 3 convolutions; size and channels stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, momentum=MOMENTUM)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, momentum=MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same."""
        inner = conv_relu(self.conv1, self.bn1, x)
        return conv_sum_relu(self.conv2, self.bn2, inner, x)


class FusionModule(nn.Module):
    """Basic blocks in each branch, then the sum of all branches, resized, in each."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(w) for _ in range(BLOCKS))) for w in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """One (N, width, H / stride, W / stride) per branch, finest first, to the same."""
        x = [branch(one) for branch, one in zip(self.branches, x, strict=True)]
        return [self._fuse(x, target) for target in range(len(x))]

    def _fuse(self, x: list[Tensor], target: int) -> Tensor:
        paths = self.fuse_layers[target]
        assert isinstance(paths, nn.ModuleList)
        moved = [resize_corners(path(one), like=x[target]) for path, one in zip(paths, x, strict=True)]
        total = moved[0] + moved[1]
        for one in moved[2:]:
            total.add_(one)
        return F.relu_(total)


def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """Path between branches: 1 x 1 to a finer one (the caller upsamples), 3 x 3 of stride 2 to a coarser one."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_bn(widths[source], widths[target], side=1, relu=False)
    steps = [conv_bn(widths[source], widths[source], stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, conv_bn(widths[source], widths[target], stride=2, relu=False))


class Hrnet(nn.Module):
    """HRNet whose stem has stride 1: the finest branch keeps every pixel, which costs memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64, momentum=MOMENTUM)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64, momentum=MOMENTUM)
        self.layer1 = bottlenecks(64, 64, BLOCKS, momentum=MOMENTUM)
        outputs = 64 * Bottleneck.expansion
        self.transition1 = nn.ModuleList(
            [conv_bn(outputs, WIDTHS[0]), nn.Sequential(conv_bn(outputs, WIDTHS[1], stride=2))]
        )
        self.stage2 = _stage(2)
        self.transition2 = _transition(2)
        self.stage3 = _stage(3)
        self.transition3 = _transition(3)
        self.stage4 = _stage(4)

    def features(self, x: Tensor) -> Tensor:
        """Float (N, 3, H, W) to (N, 270, H, W): all branches, upsampled."""
        x = conv_relu(self.conv1, self.bn1, x)
        x = conv_relu(self.conv2, self.bn2, x)
        x = self.layer1(x)
        branches = self.stage2([path(x) for path in self.transition1])
        branches = self.stage3(_grow(branches, self.transition2))
        branches = self.stage4(_grow(branches, self.transition3))
        return torch.cat([resize_corners(one, like=branches[0]) for one in branches], dim=1)


def _stage(branches: int) -> nn.Sequential:
    return nn.Sequential(*(FusionModule(WIDTHS[:branches]) for _ in range(MODULES[branches - 2])))


def _transition(branches: int) -> nn.ModuleList:
    """A new branch from the coarsest one; the others pass unchanged."""
    kept = [nn.Identity() for _ in range(branches)]
    new = nn.Sequential(conv_bn(WIDTHS[branches - 1], WIDTHS[branches], stride=2))
    return nn.ModuleList([*kept, new])


def _grow(branches: list[Tensor], transition: nn.ModuleList) -> list[Tensor]:
    return [*branches, transition[-1](branches[-1])]
