"""Overlapping patches of an image, and the image assembled from them: their mean, so that a constant stays constant.

H, W: size of the image; h, w: size of a patch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from wsi_magnet.geometry import Box, ceil_div


def patch_grid(*, image_hw: tuple[int, int], patch_hw: tuple[int, int]) -> tuple[Box, ...]:
    """The fewest patches that cover an image, evenly overlapping, row by row; all lie inside it.

    Raises ValueError for an image smaller than a patch.
    """
    rows, columns = (_offsets(length, side) for length, side in zip(image_hw, patch_hw, strict=True))
    height, width = patch_hw
    return tuple(Box(x, y, x + width, y + height) for y in rows for x in columns)


def _offsets(length: int, side: int) -> tuple[int, ...]:
    if length < side:
        raise ValueError(f"{length} pixels are fewer than a patch of {side}")
    count = ceil_div(length, side)
    # Rounded one by one: steps of a whole number of pixels, added up, end short of the edge (published: up to
    # count - 1 rows are never seen).
    return tuple(i * (length - side) // max(count - 1, 1) for i in range(count))


def cut(image: Tensor, box: Box) -> Tensor:
    """The patch (N, C, h, w) of an image (N, C, H, W); a view."""
    rows, columns = box.slices_yx
    return image[..., rows, columns]


def assemble(patches: Iterable[tuple[Box, Tensor]], *, image: Tensor) -> tuple[Tensor, Tensor]:
    """Assemble an image from patches, by their mean where they overlap.

    patches: box and pixels, float (1, C, h, w), of each. image: (1, C, H, W), for shape, dtype and device.
    Returns float (1, C, H, W), 0 where there is no patch, and bool (1, 1, H, W), True where there is one.
    """
    total = torch.zeros_like(image)
    count = torch.zeros_like(image[:, :1])
    for box, patch in patches:
        cut(total, box).add_(patch)
        cut(count, box).add_(1)
    return total.div_(count.clamp(min=1)), count > 0
