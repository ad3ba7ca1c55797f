"""Convolutions without normalisation, of which small networks of the methods are made, and padding to their stride.

A training's batch holds one to four windows. Statistics over so few (batch normalisation) differ from those of a run,
and statistics over a patch (group normalisation) make each pixel depend on all others. Without either a network
computes the same in training and in a run, for any batch; small gains at the ends of residual branches keep its
activations in range. N: batch, H, W: size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BRANCH_GAIN = 0.1
"""Scale of the first weights at the end of a residual branch: a fresh block is nearly the identity."""


def convolution(inputs: int, outputs: int, *, stride: int = 1, gain: float = 1.0) -> nn.Conv2d:
    """3x3 convolution that keeps the size (divided by the stride).

    Weights are uniform, with the variance that keeps that of a ReLU's input (He et al., ICCV 2015), times gain; no bias
    at first.
    """
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    with torch.no_grad():
        layer.weight.mul_(gain)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # there is one
    return layer


def pointwise(inputs: int, outputs: int, *, gain: float = 1.0) -> nn.Conv2d:
    """1x1 convolution, its first weights those of a linear layer (their variance 1 / inputs), times gain; biases 0."""
    layer = nn.Conv2d(inputs, outputs, 1)
    limit = gain * (3 / inputs) ** 0.5
    nn.init.uniform_(layer.weight, -limit, limit)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class PlainBlock(nn.Module):
    """Residual block of two 3x3 convolutions without normalisation; size and channels stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = convolution(channels, channels, gain=BRANCH_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same."""
        return F.relu(x + self.second(F.relu(self.first(x))))


def padded(maps: Tensor, multiple: int) -> Tensor:
    """(N, K, H, W) with rows below and columns on the right, copies of the last, up to multiples of `multiple`."""
    height, width = maps.shape[-2:]
    return F.pad(maps, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def centred(rgb: Tensor) -> Tensor:
    """RGB, 0 to 1, less the mean of stained tissue and divided by its spread, roughly."""
    return (rgb - 0.7) / 0.2
