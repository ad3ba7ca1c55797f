"""CascadePSP (Cheng, Chung, Tai and Tang, CVPR 2020): one module refines a binary mask at strides 8, 4 and 1 in turn.

Adapted; written from the paper, no code or weights of its authors are used. As in the paper: pixels and three masks go
in; masks at strides 8, 4 and 1 come out, of which each round feeds back one more (section 3.2); training on true masks
made worse to an IoU of 0.8 to 1; cross-entropy at stride 8, L1 + L2 at stride 1, the mean of both at stride 4, and 5
times the L1 difference of Sobel magnitudes at stride 1 (section 3.1).

Differences. The network is our own and small (402,931 weights): a residual encoder with pyramid pooling, instead of
PSPNet with ResNet-50. Outputs add to the logits of the input mask of their stride. Groups of channels are normalised
over the patch, since the batches of a training are small and pooling sees the whole patch in any case. The global step
needs the whole image, which a slide is too large for: here the patch is the whole image, at its own resolution. So the
method is global within a patch and sees nothing outside. Classes: the paper's recipe for scenes refines connected
components and keeps the class of highest confidence; here the map of each class in the patch is refined, and at each
pixel the refined maps are divided by their sum. The paper skips crops whose mean mask is above 0.9 or below 0.1; over a
whole patch a mean would drop small regions, so a class is skipped, and keeps its map, where its probability is so high
or so low everywhere in the patch.

N: batch, C: classes, H, W: size. Lengths are the network's pixels, as in the paper.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.methods.blocks import BRANCH_GAIN, centred, padded, pointwise
from wsi_magnet.methods.losses import allowed_classes, single_labels
from wsi_magnet.methods.method import Method, MethodInfo, Needs, PatchMaps
from wsi_magnet.methods.perturb import perturbed_mask, softened
from wsi_magnet.nets.small import upsample

STRIDES = (8, 4, 1)
"""Strides of the outputs, from the coarsest."""

STRIDE = STRIDES[0]
"""Height and width of the network's input are multiples of this."""

WIDTHS = (16, 32, 64)
"""Channels at strides 1 (and 2), 4 and 8."""

GROUPS = 8
"""Groups of channels that are normalised together."""

POOLS = (1, 2, 3, 6)
"""Bins of the pyramid pooling along an axis (PSPNet)."""

MARGIN_PX = 64
"""Margin that a cell is given: context for the cell's edge. Pooling has no receptive radius."""

SKIPPED = (0.1, 0.9)
"""Probabilities below and above which a class needs no refinement."""

LEAST_IOU = 0.8
"""Least IoU of a true mask made worse, for a training."""

GRADIENT_WEIGHT = 5.0
"""Weight of the loss of gradients (alpha)."""

LEAST_DOUBT = 0.02
"""Least distance of a mask from 0 and 1 in the logits that an output adds to."""

EPSILON = 1e-6


class GroupLayer(nn.Sequential):
    """3x3 convolution, normalisation by groups of channels, and an optional ReLU."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1, gain: float = 1.0, relu: bool = True
    ):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        norm = nn.GroupNorm(GROUPS, outputs)
        nn.init.constant_(norm.weight, gain)
        super().__init__(convolution, norm, *([nn.ReLU()] if relu else []))


class GroupBlock(nn.Module):
    """Residual block of two such layers; size and channels stay."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = GroupLayer(channels, channels, dilation=dilation)
        self.second = GroupLayer(channels, channels, dilation=dilation, gain=BRANCH_GAIN, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same."""
        return F.relu(x + self.second(self.first(x)))


class PyramidPooling(nn.Module):
    """Means over 1, 4, 9 and 36 parts of the patch, beside the features that they are of (PSPNet, CVPR 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        share = channels // len(POOLS)
        self.parts = nn.ModuleList(pointwise(channels, share) for _ in POOLS)
        self.merge = GroupLayer(channels + share * len(POOLS), channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same."""
        pooled = [
            upsample(F.relu(part(F.adaptive_avg_pool2d(x, bins))), x.shape[-2:])
            for bins, part in zip(POOLS, self.parts, strict=True)
        ]
        merged: Tensor = self.merge(torch.cat([x, *pooled], dim=1))
        return merged


class CascadeNet(nn.Module):
    """The refinement module: pixels and three masks to logits at strides 8, 4 and 1."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, deep = WIDTHS
        self.encode_4 = nn.Sequential(
            GroupLayer(6, fine, stride=2), GroupLayer(fine, middle, stride=2), GroupBlock(middle)
        )
        self.encode_8 = nn.Sequential(
            GroupLayer(middle, deep, stride=2), *(GroupBlock(deep, dilation) for dilation in (1, 2, 4))
        )
        self.pool = PyramidPooling(deep)
        self.decode_4 = nn.Sequential(GroupLayer(deep + middle, middle), GroupBlock(middle))
        self.narrow = pointwise(middle, fine)
        self.decode_1 = nn.Sequential(GroupLayer(fine + 6, fine), GroupBlock(fine))
        self.heads = nn.ModuleList(
            nn.Sequential(pointwise(width, width), nn.ReLU(), pointwise(width, 1, gain=0.1))
            for width in (deep, middle, fine)
        )

    def forward(self, rgb: Tensor, mask: Tensor) -> list[list[Tensor]]:
        """Logits of the three rounds: at stride 8; at 8 and 4; at 8, 4 and 1, each upsampled to float (N, 1, H, W).

        rgb: float (N, 3, H, W), 0 to 1; mask: float (N, 1, H, W), 0 to 1; H, W multiples of 8. Each output takes the
        place of the input of its stride in the next round; at first all three are the mask.
        """
        masks, rounds = [mask] * len(self.heads), []
        for last in range(1, len(self.heads) + 1):
            outputs = self.outputs(rgb, masks, last)
            masks[:last] = [logits.sigmoid() for logits in outputs]
            rounds.append(outputs)
        return rounds

    def outputs(self, rgb: Tensor, masks: list[Tensor], count: int) -> list[Tensor]:
        """Logits of the coarsest `count` strides, each upsampled to (N, 1, H, W), from the mask of each stride."""
        x = torch.cat([centred(rgb), *(each * 2 - 1 for each in masks)], dim=1)
        quarter = self.encode_4(x)
        features = [self.pool(self.encode_8(quarter))]
        if count > 1:
            wide = upsample(features[0], quarter.shape[-2:])
            features.append(self.decode_4(torch.cat([wide, quarter], dim=1)))
        if count > 2:
            wide = upsample(self.narrow(features[1]), x.shape[-2:])
            features.append(self.decode_1(torch.cat([wide, x], dim=1)))
        return [
            upsample(head(each) + mask_logits(mask, stride), x.shape[-2:])
            for head, each, mask, stride in zip(self.heads, features, masks, STRIDES, strict=False)
        ]


def mask_logits(mask: Tensor, stride: int) -> Tensor:
    """Logits of a mask's means over squares of `stride` pixels, which are kept from the certainty that stops learning.

    float (N, 1, H, W), 0 to 1, to (N, 1, H / stride, W / stride).
    """
    return F.avg_pool2d(mask, stride).clamp(LEAST_DOUBT, 1 - LEAST_DOUBT).logit()


class CascadePSP(Method):
    """The map of each class in the patch, refined as a binary mask; then divided by their sum."""

    info = MethodInfo(
        name="CascadePSP",
        origin="adapted",
        source="Cheng, Chung, Tai, Tang: CascadePSP, CVPR 2020, section 3",
        differs="A small network of our own, trained on the slides' masks; the global step sees the patch, not the "
        "whole slide; the maps of the classes are refined one by one and divided by their sum.",
        needs=Needs(rgb=True, head=True),
        steps=100,
        local=False,
    )

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> nn.Module:
        """A module with fresh weights; it knows masks and no classes."""
        return CascadeNet()

    def receptive_radius_px(self, mpp: float) -> int:
        """The margin that a cell is given; within the patch every pixel may influence every other."""
        return MARGIN_PX

    def refine(self, maps: PatchMaps) -> Tensor:
        """Probabilities of the cell, float32 (N, C, h, w).

        On CPUs one map at a time, so that its result does not depend on the number of others.
        """
        assert maps.rgb is not None
        refined = maps.coarse.clone()
        wanted = uncertain_maps(maps.coarse)
        for pairs in wanted.split(1 if maps.coarse.device.type == "cpu" else 8):
            samples, classes = pairs.unbind(dim=1)
            refined[samples, classes] = self._refined(maps.rgb[samples], maps.coarse[samples, classes])
        refined = refined + EPSILON * maps.coarse
        return maps.inner(refined / refined.sum(dim=1, keepdim=True))

    def _refined(self, rgb: Tensor, masks: Tensor) -> Tensor:
        """Binary masks, float (M, H, W), refined."""
        height, width = masks.shape[-2:]
        network = cast(CascadeNet, self.head)
        rounds = network(padded(rgb, STRIDE), padded(masks.unsqueeze(1), STRIDE))
        result: Tensor = rounds[-1][-1].sigmoid()[:, 0, :height, :width]
        return result

    def loss(self, maps: PatchMaps, sets: Tensor, rng: torch.Generator, class_weights: Tensor | None = None) -> Tensor:
        """Loss of one random class of each window, whose true mask is made worse.

        Each class that is there is as likely as any other, so weights of classes are not used.
        """
        assert maps.rgb is not None
        height, width = maps.size_hw
        truth, known = binary_truth(maps.coarse, sets, rng)
        worse = torch.stack([_worse(mask, rng) for mask in truth])
        network = cast(CascadeNet, self.head)
        rounds = network(padded(maps.rgb, STRIDE), padded(worse.unsqueeze(1), STRIDE))
        losses = [
            stride_loss(logits[:, 0, :height, :width], truth.float(), known, stride)
            for outputs in rounds
            for logits, stride in zip(outputs, STRIDES, strict=False)
        ]
        return torch.stack(losses).sum()


def _worse(mask: Tensor, rng: torch.Generator) -> Tensor:
    """A true mask, bool (H, W), made worse to a random IoU and blurred: float (H, W)."""
    least = LEAST_IOU + (1 - LEAST_IOU) * float(torch.rand((), generator=rng))
    return softened(perturbed_mask(mask, least, rng)[None].float(), rng)[0]


def uncertain_maps(coarse: Tensor) -> Tensor:
    """Samples and classes whose map is worth refining: int64 (M, 2). coarse: float (N, C, H, W)."""
    low, high = SKIPPED
    return ((coarse.amax(dim=(2, 3)) >= low) & (coarse.amin(dim=(2, 3)) <= high)).nonzero()


def binary_truth(coarse: Tensor, sets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The mask of a random class of each window, and the pixels where the labels decide it: bool (N, H, W) each.

    The class is one that some pixel certainly is, any class where there is none. Where the labels leave it open the
    coarser result decides. coarse: float (N, C, H, W); sets: int32 (N, H, W).
    """
    n_classes = coarse.shape[1]
    allowed, labels = allowed_classes(sets, n_classes), single_labels(sets, n_classes)
    masks, decided = [], []
    for index in range(len(coarse)):
        present = [c for c in range(n_classes) if bool((labels[index] == c).any())] or list(range(n_classes))
        chosen = present[int(torch.randint(len(present), (), generator=rng))]
        known = (labels[index] == chosen) | ~allowed[index, chosen]
        masks.append(torch.where(known, allowed[index, chosen], coarse[index, chosen] > 0.5))
        decided.append(known)
    return torch.stack(masks), torch.stack(decided)


def stride_loss(logits: Tensor, truth: Tensor, known: Tensor, stride: int) -> Tensor:
    """Loss of an output, a scalar; 0 where nothing is known. logits, truth: float (N, H, W); known: bool (N, H, W).

    Stride 8: cross-entropy. Stride 1: L1 + L2 + 5 times the loss of gradients. Stride 4: mean of cross-entropy and
    L1 + L2.
    """
    entropy = _mean(F.binary_cross_entropy_with_logits(logits, truth, reduction="none"), known)
    if stride == 8:
        return entropy
    difference = logits.sigmoid() - truth
    distance = _mean(difference.abs() + difference.square(), known)
    if stride == 4:
        return (entropy + distance) / 2
    return distance + GRADIENT_WEIGHT * gradient_loss(logits.sigmoid(), truth, known)


def gradient_loss(probabilities: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Mean difference of the gradients' magnitudes, of masks smoothed by a 3x3 mean, where all 5x5 pixels are known.

    probabilities, truth: float (N, H, W); known: bool (N, H, W).
    """
    surrounded = F.max_pool2d((~known).float().unsqueeze(1), 5, stride=1, padding=2)[:, 0] == 0
    return _mean((_gradient(probabilities) - _gradient(truth)).abs(), surrounded)


def _gradient(maps: Tensor) -> Tensor:
    """Magnitude of the Sobel gradient after a 3x3 mean, the edge's pixels repeated. (N, H, W) to the same.

    The weights on a side of the Sobel kernel sum to 1.
    """
    smooth = F.avg_pool2d(F.pad(maps.unsqueeze(1), (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=maps.device) / 4
    both = F.conv2d(F.pad(smooth, (1, 1, 1, 1), mode="replicate"), torch.stack([kernel, kernel.T]).unsqueeze(1))
    return (both.square().sum(dim=1) + EPSILON).sqrt()  # the root's slope is finite where the map is flat


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean over the known pixels, 0 without any."""
    return (values * known).sum() / known.sum().clamp(min=1)
