"""SegFix: pixels at a boundary take the result of a pixel inside, whose direction a head predicts. Adapted.

Source: Yuan, Xie, Chen, Wang, "SegFix: Model-Agnostic Boundary Refinement for Segmentation", ECCV 2020, section 3
(boundary and direction branches, their losses, offsets, ground truth). Differences:

- The head reads the features of the bundle's backbone, which is frozen; the paper trains an HRNet of its own.
- Widths and offsets are lengths in micrometres. An offset has the same length in all eight directions.
- The pixel at the offset gives its probabilities, not its label; it is the nearest one, not a mean of four.
- Ground truth is made from label sets: a pixel counts where its class is known, and where no pixel of unknown class, or
  edge of the window, is so near that it could change the answer.

N: batch, C: classes, F: feature channels, H, W: size of the patch, s: stride of the features.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import correlate1d, distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.methods.losses import single_labels
from wsi_magnet.methods.method import Method, MethodInfo, Needs, PatchMaps

WIDTH = 256
"""Channels of a branch."""

DIRECTIONS = 8
"""Direction k points at k * 45 degrees, from +x towards +y."""

UNKNOWN = -1
"""Ground truth that teaches nothing."""

FEATURE_RADIUS_PX = 16
"""Pixels from which the logits of the head are interpolated, for strides up to 8."""

SMOOTHING, DERIVATIVE = (1, 4, 6, 4, 1), (-1, -2, 0, 2, 1)
"""The 5 x 5 Sobel filter, across and along the derivative."""


class BoundaryHead(nn.Module):
    """Features to logits of boundary (no, yes) and of direction (8): two branches of 1 x 1 convolutions.

    The logits have the resolution of the features.
    """

    def __init__(self, feature_channels: int) -> None:
        super().__init__()
        self.boundary = _branch(feature_channels, 2)
        self.direction = _branch(feature_channels, DIRECTIONS)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features: float (N, F, h, w). Returns logits, (N, 2, h, w) and (N, 8, h, w)."""
        return self.boundary(features), self.direction(features)


def _branch(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, outputs, 1)
    )


class SegFix(Method):
    """SegFix on the features of the finest scale."""

    info = MethodInfo(
        name="SegFix",
        origin="adapted",
        source="Yuan et al., ECCV 2020, section 3",
        differs="The head reads the frozen backbone's features; lengths are in micrometres; probabilities are moved, "
        "from the nearest pixel; pixels of unknown class are ignored.",
        needs=Needs(rgb=False, features=True, head=True),
        parameters={"boundary_um": 5.0, "step_um": 5.0},
        fit={"step_um": (1.25, 2.5, 5.0, 10.0, 20.0)},
    )
    # boundary_um: width of the boundary on each side of it; a head is trained for one. step_um: length of the offset.

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> BoundaryHead:
        """A head with fresh weights, the same for any number of classes."""
        return BoundaryHead(feature_channels)

    def receptive_radius_px(self, mpp: float) -> int:
        """The offset, and the features round a pixel; what the backbone sees comes besides."""
        return math.ceil(self._length_px("step_um", mpp)) + FEATURE_RADIUS_PX

    @torch.no_grad()
    def refine(self, maps: PatchMaps) -> Tensor:
        """The coarse result, in which each pixel of a predicted boundary has that of the pixel at its offset."""
        boundary, direction = self._logits(maps)
        offsets = torch.tensor(offsets_yx(self._length_px("step_um", maps.mpp)), device=boundary.device)
        moved = offsets[direction.argmax(dim=1)] * (boundary[:, 1:] > boundary[:, :1]).movedim(1, -1)
        return maps.inner(taken_from(maps.coarse, moved))

    def loss(self, maps: PatchMaps, sets: Tensor, rng: torch.Generator, class_weights: Tensor | None = None) -> Tensor:
        """Cross-entropy of the boundary, and of the direction where a boundary is predicted (section 3).

        The classes of the boundary have the weights 1 - f, f: their share of the batch's pixels. Those of the bundle's
        classes are not used, since the head predicts none of them.
        """
        boundary, direction = self._logits(maps)
        truth = boundary_truth(sets, self.n_classes, self._length_px("boundary_um", maps.mpp))
        is_boundary, directions = (one.to(boundary.device) for one in truth)
        directions = directions.masked_fill(boundary.detach().argmax(dim=1) == 0, UNKNOWN)
        return cross_entropy(boundary, is_boundary, frequency_weights(is_boundary)) + cross_entropy(
            direction, directions, direction.new_ones(DIRECTIONS)
        )

    def _logits(self, maps: PatchMaps) -> tuple[Tensor, Tensor]:
        """Logits of boundary and direction of each pixel, float32 (N, 2, H, W) and (N, 8, H, W)."""
        assert self.head is not None
        assert maps.features is not None
        boundary, direction = (
            F.interpolate(logits.float(), size=maps.size_hw, mode="bilinear", align_corners=False)
            for logits in self.head(maps.features)
        )
        return boundary, direction

    def _length_px(self, parameter: str, mpp: float) -> float:
        """A length in pixels, at least 1: a shorter one would have no effect."""
        return max(1.0, self.parameters[parameter] / mpp)


def offsets_yx(step_px: float) -> list[list[int]]:
    """Offset of each direction, (y, x) in whole pixels."""
    angles = [k * 2 * math.pi / DIRECTIONS for k in range(DIRECTIONS)]
    return [[round(step_px * math.sin(angle)), round(step_px * math.cos(angle))] for angle in angles]


def taken_from(maps: Tensor, offsets: Tensor) -> Tensor:
    """Each pixel with the values of the pixel at its offset, or of the nearest pixel where that lies outside.

    maps: (N, K, H, W). offsets: int64 (N, H, W, 2), y before x. Returns (N, K, H, W).
    """
    height, width = maps.shape[-2:]
    rows = torch.arange(height, device=maps.device).view(-1, 1) + offsets[..., 0]
    columns = torch.arange(width, device=maps.device) + offsets[..., 1]
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    index = index.flatten(1).unsqueeze(1).expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).view_as(maps)


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy, weighed by class, over the pixels that are known; 0 where none has a weight.

    logits: float (N, K, H, W); target: int64 (N, H, W), `UNKNOWN` where it is not known; weights: float (K,).
    """
    total = F.cross_entropy(logits, target, weights, ignore_index=UNKNOWN, reduction="sum")
    return total / weights[target[target != UNKNOWN]].sum().clamp(min=1e-9)


def frequency_weights(is_boundary: Tensor) -> Tensor:
    """1 - f of both classes, f: share of the pixels that are known; float32 (2,). is_boundary: 0, 1 or `UNKNOWN`."""
    counts = torch.stack([(is_boundary == value).sum() for value in (0, 1)])
    return 1 - counts / counts.sum().clamp(min=1)


def boundary_truth(sets: Tensor, n_classes: int, boundary_px: float) -> tuple[Tensor, Tensor]:
    """Ground truth of the boundary (0, 1) and of the direction (0 to 7), `UNKNOWN` elsewhere: int64 (N, H, W) twice.

    sets: label sets, int32 (N, H, W). A pixel of a single class is at the boundary where a pixel that cannot be of that
    class is at most `boundary_px` away, centre to centre. Its direction is the gradient's of this distance, inward.
    """
    labels = single_labels(sets, n_classes).cpu().numpy()
    pairs = [_truth_of(*one, boundary_px) for one in zip(sets.cpu().numpy(), labels, strict=True)]
    boundary, direction = (torch.from_numpy(np.stack(maps)) for maps in zip(*pairs, strict=True))
    return boundary, direction


def _truth_of(
    sets: npt.NDArray[np.int32], labels: npt.NDArray[np.int64], boundary_px: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Boundary and direction of one window, (H, W) each."""
    nearest = np.full(labels.shape, np.inf)
    direction = np.full(labels.shape, UNKNOWN)
    for label in np.unique(labels[labels >= 0]):
        allowed = (sets >> label) & 1 > 0
        if not allowed.all():
            own, distance = labels == label, distance_transform_edt(allowed)
            nearest[own] = distance[own]
            direction[own] = inward_direction(distance)[own]
    # Beyond an unknown pixel, or the edge, the other class could be nearer than the nearest one that is known.
    unknown = distance_transform_edt(np.pad(labels >= 0, 1))[1:-1, 1:-1]
    boundary = np.where(nearest <= boundary_px, 1, np.where(unknown > boundary_px, 0, UNKNOWN))
    boundary[labels < 0] = UNKNOWN
    direction[nearest > unknown] = UNKNOWN
    return boundary, direction


def inward_direction(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Direction of the gradient of a distance map, (H, W), by 5 x 5 Sobel filters; `UNKNOWN` where there is none."""
    along_y, along_x = (
        correlate1d(correlate1d(distance, DERIVATIVE, axis, mode="nearest"), SMOOTHING, 1 - axis, mode="nearest")
        for axis in (0, 1)
    )
    found = np.rint(np.arctan2(along_y, along_x) / (2 * np.pi / DIRECTIONS)).astype(np.int64) % DIRECTIONS
    return np.where(np.hypot(along_y, along_x) > 1e-6, found, UNKNOWN)
