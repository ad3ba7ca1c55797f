"""Building blocks that several networks share: fused convolutions, and bilinear resizing in both pixel conventions."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F


@runtime_checkable
class Fused(Protocol):
    """A convolution with folded normalisation that also computes the following operation."""

    def with_relu(self, x: Tensor) -> Tensor:
        """relu(convolution(x))."""
        ...

    def with_sum(self, x: Tensor, kept: Tensor) -> Tensor:
        """relu(convolution(x) + kept)."""
        ...


def conv_relu(convolution: nn.Module, normalisation: nn.Module, x: Tensor) -> Tensor:
    """relu(normalisation(convolution(x)))."""
    if isinstance(convolution, Fused):
        return convolution.with_relu(x)
    return F.relu_(normalisation(convolution(x)))


def conv_sum_relu(convolution: nn.Module, normalisation: nn.Module, x: Tensor, kept: Tensor) -> Tensor:
    """relu(normalisation(convolution(x)) + kept), the end of a residual block."""
    if isinstance(convolution, Fused):
        return convolution.with_sum(x, kept)
    return F.relu_(normalisation(convolution(x)).add_(kept))


def resize(x: Tensor, like: Tensor) -> Tensor:
    """(N, C, h, w) to (N, C, H, W), the height and width of `like`; pixels are areas (align_corners=False)."""
    return _resize(x, like, corners=False)


def resize_corners(x: Tensor, like: Tensor) -> Tensor:
    """Resize with pixels as points and coinciding corners (align_corners=True), as in the training of HRNet."""
    return _resize(x, like, corners=True)


def _resize(x: Tensor, like: Tensor, corners: bool) -> Tensor:
    size_hw = like.shape[-2:]
    if x.shape[-2:] == size_hw:
        return x
    return F.interpolate(x, size=size_hw, mode="bilinear", align_corners=corners)
