"""Masks made worse: what a method that learns to mend masks sees in training.

Noise decides which borders grow and which shrink: a blurred mask plus smooth noise, thresholded again. C: classes,
H, W: size. All chance comes from a generator on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT_PX = 8
"""Largest shift of class maps along an axis."""

BLUR_PX = (1, 8)
"""Radius of the box filter before the threshold: how far noise moves a border."""

SOFT_PX = (0, 8)
"""Radius of the box filter after the threshold: an upsampled result has soft borders."""

GRAIN_PX = (4, 48)
"""Distance between the noise's independent values."""

AMPLITUDES = tuple(2.0 * 0.7**index for index in range(14))
"""Standard deviations of the noise that are tried, of masks from 0 to 1."""


def perturbed_classes(maps: Tensor, rng: torch.Generator) -> Tensor:
    """Class maps shifted, their borders moved by noise, and blurred. float (C, H, W), 1 in sum over C, to the same."""
    shift = [int(torch.randint(-SHIFT_PX, SHIFT_PX + 1, (), generator=rng)) for _ in range(2)]
    field = box_blur(shifted(maps, (shift[0], shift[1])), _whole(BLUR_PX, rng))
    field = field + 0.6 * _uniform(rng) * smooth_noise(maps, _whole(GRAIN_PX, rng), rng)
    hard = F.one_hot(field.argmax(dim=0), len(maps)).movedim(-1, 0).to(maps.dtype)
    return box_blur(hard, _whole(SOFT_PX, rng))


def perturbed_mask(mask: Tensor, least_iou: float, rng: torch.Generator) -> Tensor:
    """A mask whose border is moved by as much noise as leaves an IoU of `least_iou`. bool (H, W) to the same.

    IoU is that with `mask`, between `least_iou` and 1; a mask that no noise of `AMPLITUDES` leaves so much of, as one
    of a few pixels, comes back as it is.
    """
    whole = mask[None].float()
    field = box_blur(whole, _whole(BLUR_PX, rng)) - 0.5
    noise = smooth_noise(whole, _whole(GRAIN_PX, rng), rng)
    for amplitude in AMPLITUDES:
        worse = (field + amplitude * noise)[0] > 0
        if iou(worse, mask) >= least_iou:
            return worse
    return mask


def softened(mask: Tensor, rng: torch.Generator) -> Tensor:
    """A mask blurred as an upsampled result is. float (K, H, W) to the same."""
    return box_blur(mask, _whole(SOFT_PX, rng))


def iou(first: Tensor, second: Tensor) -> float:
    """Intersection over union of two masks, bool of one shape; 1 for two empty ones."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def smooth_noise(like: Tensor, grain_px: int, rng: torch.Generator) -> Tensor:
    """Normal noise on a grid of `grain_px`, interpolated (bicubic); shape and device of `like`, (K, H, W)."""
    channels, height, width = like.shape
    grid = torch.randn(1, channels, height // grain_px + 2, width // grain_px + 2, generator=rng)
    fine = F.interpolate(grid, scale_factor=grain_px, mode="bicubic", align_corners=False)
    return fine[0, :, grain_px // 2 :, grain_px // 2 :][:, :height, :width].to(like)


def shifted(maps: Tensor, shift_yx: tuple[int, int]) -> Tensor:
    """Maps moved down and to the right by whole pixels; the edge's pixels are repeated. (K, H, W) to the same."""
    for axis, shift in ((-2, shift_yx[0]), (-1, shift_yx[1])):
        places = (torch.arange(maps.shape[axis], device=maps.device) - shift).clamp(0, maps.shape[axis] - 1)
        maps = maps.index_select(axis, places)
    return maps


def box_blur(maps: Tensor, radius_px: int) -> Tensor:
    """Mean over a square window of side 2 * radius_px + 1; the edge's pixels are repeated. (K, H, W) to the same."""
    if radius_px == 0:
        return maps
    side, pad = 2 * radius_px + 1, (radius_px,) * 4
    wide = F.pad(maps[None], pad, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(wide, (side, 1), stride=1), (1, side), stride=1)[0]


def _uniform(rng: torch.Generator) -> float:
    """A number from 0 to 1."""
    return float(torch.rand((), generator=rng))


def _whole(limits: tuple[int, int], rng: torch.Generator) -> int:
    """A whole number within limits, both included."""
    return int(torch.randint(limits[0], limits[1] + 1, (), generator=rng))
