"""DGF: a guided filter whose guide is learned from the pixels.

Reimplemented from H. Wu, S. Zheng, J. Zhang, K. Huang, "Fast End-to-End Trainable Guided Filter", CVPR 2018, as it
is used there for semantic segmentation: a network of two 1x1 convolutions makes of the RGB a guide with a channel for
each class, and each class's logits are filtered with their own channel as a grey guide, at full resolution.

What differs: the backbone is frozen, so that the logits are the log of the coarser result, and only the guide is
learned; with the loss of label sets. The radius is in pixels of the finest scale, as published, since the guide is
learned at one scale; epsilon is in squared units of the guide. Local: a pixel depends on those up to two radii away.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_magnet.methods.box_filter import box_mean
from wsi_magnet.methods.losses import set_loss
from wsi_magnet.methods.method import Method, MethodInfo, Needs, PatchMaps

HIDDEN = 64
"""Channels between the two convolutions."""

SMALLEST = 1e-5
"""Probabilities below count as this, so that their log is finite."""


class DeepGuidedFilter(Method):
    """The guided filter of the coarser result's logits, with a learned guide."""

    info = MethodInfo(
        name="DGF",
        origin="reimplemented",
        source="Wu et al., Fast End-to-End Trainable Guided Filter, CVPR 2018: guided filtering layer",
        differs="The guide alone is learned, on a frozen backbone; its input is the log of the coarser result.",
        needs=Needs(head=True),
        parameters={"radius_px": 4, "epsilon": 1e-2},
    )

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> nn.Module:
        """The guide's network: RGB (N, 3, H, W) to (N, C, H, W); 581 parameters for 5 classes."""
        return nn.Sequential(nn.Conv2d(3, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, n_classes, 1))

    def receptive_radius_px(self, mpp: float) -> int:
        """Two radii, at any mpp: of the windows of a pixel, and of the pixels in them."""
        return 2 * int(self.parameters["radius_px"])

    def refine(self, maps: PatchMaps) -> Tensor:
        """Probabilities of the cell: float32 (N, C, H - 2 * margin_px, W - 2 * margin_px)."""
        assert maps.rgb is not None
        patches = zip(maps.rgb.split(1), maps.coarse.split(1), strict=True)  # a convolution may depend on the batch
        return torch.cat([maps.inner(self._logits(rgb, coarse)).softmax(dim=1) for rgb, coarse in patches])

    def loss(self, maps: PatchMaps, sets: Tensor, rng: torch.Generator, class_weights: Tensor | None = None) -> Tensor:
        """`set_loss` of the filtered logits; nothing is left to chance."""
        assert maps.rgb is not None
        return set_loss(self._logits(maps.rgb, maps.coarse), sets, class_weights)

    def _logits(self, rgb: Tensor, coarse: Tensor) -> Tensor:
        """Filtered logits, (N, C, H, W)."""
        assert self.head is not None
        radius, epsilon = int(self.parameters["radius_px"]), self.parameters["epsilon"]
        return grey_guided_filter(self.head(rgb), centred_logits(coarse), radius, epsilon)


def centred_logits(probabilities: Tensor) -> Tensor:
    """Log of the probabilities, 0 on average over the classes. (N, C, H, W)."""
    logits = probabilities.clamp(min=SMALLEST).log()
    return logits - logits.mean(dim=1, keepdim=True)


def grey_guided_filter(guide: Tensor, maps: Tensor, radius: int, epsilon: float) -> Tensor:
    """Filter each map with its own channel of the guide. Both float (N, K, H, W), as the result.

    Equations 5, 6 and 8 of He et al., ECCV 2010. epsilon: in squared units of the guide. Differentiable in both.
    """
    guide_mean, map_mean = box_mean(guide, radius), box_mean(maps, radius)
    covariance = box_mean(guide * maps, radius) - guide_mean * map_mean
    variance = (box_mean(guide * guide, radius) - guide_mean * guide_mean).clamp(min=0)
    slope = covariance / (variance + epsilon)
    return box_mean(slope, radius) * guide + box_mean(map_mean - slope * guide_mean, radius)
