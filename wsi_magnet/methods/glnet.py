"""GLNet: a global branch and a local one that share their features (Chen et al., CVPR 2019, sections 3.2 and 3.3).

Adapted. Published are two ResNet50-FPNs of their own, one for the whole image at 508 pixels and one for crops, which
share features at C2 to C5 and at three levels of each pyramid. Here the bundle's frozen network makes the features of
both branches, and they are shared at the last level alone, since that is what a bundle has: of the published 79.2
million parameters (79,164,047 for 5 classes) these are the 9.5 million above it. A slide cannot be one image of 508
pixels: the global branch is the patch of the coarsest scale, and of the local features it receives those of the one
patch, not of the whole image; where that patch does not lie they are 0. Focal loss takes label sets, at the patch's
resolution instead of a quarter of it. One patch makes a cell, where published scores of overlapping crops are summed.
The coarser result is not used.

N: batch, C: classes, F: channels of the features; h, w: size of the local features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.methods.losses import focal_loss
from wsi_magnet.methods.method import Context, Method, MethodInfo, Needs, PatchMaps

RADIUS_PX = 64
"""Margin of a patch. The head itself looks 3 pixels of the features far, and 3 of the context's features; the backbone,
whose features a patch has, much farther."""

_NEARBY = 4
"""Pixels of the context's features round the patch that its result depends on: resizing 1, two convolutions 1 each,
and one more for rounding."""


@dataclass(frozen=True, eq=False)
class Branches:
    """Logits and merged features of both branches at the patch, at the size of the local features."""

    fused: Tensor
    """Logits from both branches, the result: (N, C, h, w)."""
    local: Tensor
    """Logits of the local branch, (N, C, h, w)."""
    whole: Tensor
    """Logits of the global branch, (N, C, h, w)."""
    local_map: Tensor
    """Merged features of the local branch, (N, F, h, w)."""
    whole_map: Tensor
    """Merged features of the global branch, (N, F, h, w)."""


class GlobalLocal(nn.Module):
    """The layers above the last shared level; linear like the published pyramid. F = 512: 9,530,383 parameters."""

    def __init__(self, n_classes: int, channels: int) -> None:
        super().__init__()
        self.merge_local = _convolution(2 * channels, channels)
        self.merge_whole = _convolution(2 * channels, channels)
        self.classify_local = _convolution(channels, n_classes)
        self.classify_whole = _convolution(channels, n_classes)
        self.classify_fused = _convolution(2 * channels, n_classes)

    def forward(self, local: Tensor, context: Context, patch_hw: tuple[int, int]) -> Branches:
        """local: features of the patch, float (N, F, h, w). patch_hw: size of the patch in its pixels."""
        context = nearby(context, patch_hw)
        size_hw = (local.shape[-2], local.shape[-1])

        def at_patch(maps: Tensor) -> Tensor:
            return context.at(maps, size_hw, patch_hw)

        local_map = self.merge_local(torch.cat([local, at_patch(context.features)], dim=1))
        whole = self.merge_whole(torch.cat([context.features, onto_context(local, context, patch_hw)], dim=1))
        whole_map = at_patch(whole)
        return Branches(
            fused=self.classify_fused(torch.cat([local_map, whole_map], dim=1)),
            local=self.classify_local(local_map),
            whole=at_patch(self.classify_whole(whole)),
            local_map=local_map,
            whole_map=whole_map,
        )


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def nearby(context: Context, patch_hw: tuple[int, int]) -> Context:
    """The part of the context that the result of a patch depends on, so that the rest costs nothing."""
    boxes = [_nearby(context, patch_hw[axis], axis) for axis in (0, 1)]
    (top, bottom, stride_y), (left, right, stride_x) = boxes
    return replace(
        context,
        probabilities=context.probabilities[
            ..., top * stride_y : bottom * stride_y, left * stride_x : right * stride_x
        ],
        features=context.features[..., top:bottom, left:right],
        corner_yx=(context.corner_yx[0] - top * stride_y, context.corner_yx[1] - left * stride_x),
    )


def _nearby(context: Context, length: int, axis: int) -> tuple[int, int, int]:
    """First and last (excluded) pixel of the features along an axis, and their stride; all of them where the stride is
    not a whole number, or the patch lies beside the context.
    """
    extent, count = context.probabilities.shape[2 + axis], context.features.shape[2 + axis]
    stride = extent // count
    first = max(math.floor(context.corner_yx[axis] / stride) - _NEARBY, 0)
    last = min(math.ceil((context.corner_yx[axis] + length / context.ratio) / stride) + _NEARBY, count)
    if stride * count != extent or first >= last:
        return 0, count, stride
    return first, last, stride


def onto_context(local: Tensor, context: Context, patch_hw: tuple[int, int]) -> Tensor:
    """Means of the local features over the areas of the context's features; 0 where the patch does not lie.

    local: float (N, F, h, w). Returns float (N, F, *size of the context's features).
    """
    rows, columns = (_shares(context, local, patch_hw[axis], axis) for axis in (0, 1))
    return rows @ local @ columns.T


def _shares(context: Context, local: Tensor, length: int, axis: int) -> Tensor:
    """Weight of each local feature in each of the context's along an axis, (context's, local), 1 in sum or 0."""
    count, extent = context.features.shape[2 + axis], context.probabilities.shape[2 + axis]
    edges = torch.arange(local.shape[2 + axis] + 1, dtype=torch.float64) * (length / local.shape[2 + axis])
    edges = (context.corner_yx[axis] + edges / context.ratio) * (count / extent)
    own = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    common = (torch.minimum(own + 1, edges[1:]) - torch.maximum(own, edges[:-1])).clamp(min=0)
    return (common / common.sum(dim=1, keepdim=True).clamp(min=1e-6)).to(local)


class GlNet(Method):
    """Both branches on the features of the bundle's network, and a head that merges them."""

    info = MethodInfo(
        name="GLNet",
        origin="adapted",
        source="Chen et al., CVPR 2019, sections 3.2 and 3.3",
        differs="Frozen features of the bundle's network in both branches, shared at the last level alone; the global "
        "branch is the coarsest scale's patch, which receives the local features of one patch.",
        needs=Needs(rgb=False, features=True, context=True, head=True),
        parameters={"focal_gamma": 3.0, "coupling": 0.15},
    )

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> GlobalLocal:
        """Layers for features of that many channels in both branches."""
        return GlobalLocal(n_classes, feature_channels)

    def receptive_radius_px(self, mpp: float) -> int:
        """The margin that a patch is given: features of the backbone have no shorter limit."""
        return RADIUS_PX

    @torch.no_grad()
    def refine(self, maps: PatchMaps) -> Tensor:
        """Probabilities of the fused logits, bilinear from the size of the features."""
        patches = (self._branches(_patch(maps, i)).fused for i in range(len(maps.coarse)))
        return maps.inner(_upsample(torch.cat(list(patches)), maps).softmax(dim=1))

    def loss(self, maps: PatchMaps, sets: Tensor, rng: torch.Generator, class_weights: Tensor | None = None) -> Tensor:
        """Focal loss of the fused logits and of each branch's, and `coupling` times the mean squared difference of the
        merged features, which draws the local ones to the global ones and not the reverse.
        """
        found, gamma = self._branches(maps), self.parameters["focal_gamma"]
        logits = (found.fused, found.local, found.whole)
        focal = torch.stack([focal_loss(_upsample(one, maps), sets, gamma, class_weights) for one in logits]).sum()
        return focal + self.parameters["coupling"] * F.mse_loss(found.local_map, found.whole_map.detach())

    def _branches(self, maps: PatchMaps) -> Branches:
        assert self.head is not None
        assert maps.features is not None
        assert maps.context is not None
        found: Branches = self.head(maps.features, maps.context, maps.size_hw)
        return found


def _patch(maps: PatchMaps, i: int) -> PatchMaps:
    """One patch of a batch: the bits of a convolution may depend on the size of the batch."""
    assert maps.features is not None
    assert maps.context is not None
    one = slice(i, i + 1)
    features, probabilities = maps.context.features[one], maps.context.probabilities[one]
    context = replace(maps.context, features=features, probabilities=probabilities)
    return replace(maps, coarse=maps.coarse[one], features=maps.features[one], context=context)


def _upsample(logits: Tensor, maps: PatchMaps) -> Tensor:
    return F.interpolate(logits.float(), size=maps.size_hw, mode="bilinear", align_corners=False)
