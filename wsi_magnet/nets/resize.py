"""Bilinear resizing of feature maps, with the two meanings of a coordinate kept apart by name."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, like: Tensor) -> Tensor:
    """(N, C, h, w) to (N, C, H, W), the height and width of `like`; pixels are areas (align_corners=False)."""
    return _resize(x, like, corners=False)


def resize_corners(x: Tensor, like: Tensor) -> Tensor:
    """The same, but pixels are points and the corner ones coincide (align_corners=True), as HRNet was trained."""
    return _resize(x, like, corners=True)


def _resize(x: Tensor, like: Tensor, corners: bool) -> Tensor:
    size_hw = like.shape[-2:]
    if x.shape[-2:] == size_hw:
        return x
    return F.interpolate(x, size=size_hw, mode="bilinear", align_corners=corners)
