"""One MagNet step: upsample the coarser result, refine it, and overwrite the selected pixels.

N: batch, C: classes, H, W: size of the patch. Probabilities sum to 1 over C.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.geometry import Box

PART_PX = 64
"""Side of the parts of a patch that `refine_parts` refines: with a receptive radius of 4 pixels a refinement module
computes a quarter more than a part's own pixels."""

WORTHWHILE = 0.75
"""Largest share of the parts that is refined part by part; beyond it the margins cost more than is saved."""


class Refiner(Protocol):
    """A refinement module: two probability maps in, logits out; both are (N, C, H, W), so they go by name.

    With an attribute `receptive_radius_px` a pixel's logits depend on no input pixel farther away than that. One whose
    attribute `uses_rgb` is true takes `rgb` too, the pixels, float (N, 3, H, W), 0 to 1.
    """

    def __call__(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine: O of this scale, coarse: Y of the scales before; float (N, C, H, W) each. Returns logits of R."""
        ...


def uses_rgb(refiner: object) -> bool:
    """True for a refinement module that takes the pixels too."""
    return bool(getattr(refiner, "uses_rgb", False))


def refine_patch(*, fine: Tensor, coarse: Tensor, refiner: Refiner, rgb: Tensor | None = None) -> Tensor:
    """R = softmax(refiner(O, Y)) (paper, section 3.2).

    fine: O, coarse: Y, both float (N, C, H, W), probabilities. rgb: pixels, float (N, 3, H, W), 0 to 1, for a module
    that uses them, else None. Returns float32 (N, C, H, W), probabilities.
    """
    maps = {"fine": fine, "coarse": coarse} if rgb is None else {"fine": fine, "coarse": coarse, "rgb": rgb}
    return refiner(**maps).float().softmax(dim=1)


def refine_parts(
    *, fine: Tensor, coarse: Tensor, refiner: Refiner, needed: Tensor, radius_px: int, rgb: Tensor | None = None
) -> Tensor:
    """R = softmax(refiner(O, Y)) in the parts that hold needed pixels, elsewhere 1 / C, whose query score is 0.

    fine: O, coarse: Y, both float (1, C, H, W), probabilities. needed: bool (H, W). radius_px: the refiner's receptive
    radius. rgb: as in `refine_patch`. Returns float32 (1, C, H, W), probabilities.
    """
    rectangles = tuple(_rectangles(needed))
    if sum(r.size.pixels for r in rectangles) > WORTHWHILE * needed.numel():
        return refine_patch(fine=fine, coarse=coarse, refiner=refiner, rgb=rgb)
    refined = torch.full(fine.shape, 1 / fine.shape[1], device=fine.device)
    whole = Box(0, 0, needed.shape[1], needed.shape[0])
    for rectangle in rectangles:
        seen = rectangle.grow(radius_px).intersect(whole)
        rows, cols = seen.slices_yx
        shown = None if rgb is None else rgb[..., rows, cols]
        part = refine_patch(fine=fine[..., rows, cols], coarse=coarse[..., rows, cols], refiner=refiner, rgb=shown)
        own_rows, own_cols = rectangle.relative_to(seen).slices_yx
        rows, cols = rectangle.slices_yx
        refined[..., rows, cols] = part[..., own_rows, own_cols]
    return refined


def _rectangles(needed: Tensor) -> Iterator[Box]:
    """Runs of needed parts, a row of parts after the other."""
    height, width = needed.shape
    padded = F.pad(needed, (0, -width % PART_PX, 0, -height % PART_PX))
    rows, cols = padded.shape[0] // PART_PX, padded.shape[1] // PART_PX
    parts = padded.view(rows, PART_PX, cols, PART_PX).any(dim=3).any(dim=1).tolist()
    for row, found in enumerate(parts):
        start = None
        for col, one in enumerate([*found, False]):
            if one and start is None:
                start = col
            if not one and start is not None:
                yield Box(start * PART_PX, row * PART_PX, min(col * PART_PX, width), min((row + 1) * PART_PX, height))
                start = None


def without_margin(maps: Tensor, margin_px: int) -> Tensor:
    """(..., H, W) without `margin_px` rows and columns on each side; a view."""
    height, width = maps.shape[-2:]
    return maps[..., margin_px : height - margin_px, margin_px : width - margin_px]


def magnet_step(*, coarse: Tensor, refined: Tensor, selected: Tensor) -> Tensor:
    """Y with R in the selected pixels: a hard overwrite of all classes, no blending (paper, section 3.3).

    coarse: Y, refined: R, both float (N, C, H, W). selected: bool (N, 1, H, W), or float in [0, 1] for a soft
    selection, which mixes the two in that proportion. Returns float (N, C, H, W).
    """
    if selected.is_floating_point():
        return torch.lerp(coarse, refined, selected.expand_as(coarse))  # exact at 0 and at 1
    return torch.where(selected, refined, coarse)


def upsample_inner(maps: Tensor) -> Tensor:
    """Bilinear upsampling by 2 with half-pixel centres, without the outermost row and column, which would need pixels
    beyond the edge.

    Float (N, C, h, w) to (N, C, 2h - 4, 2w - 4). On a CPU without the library, in a fifth of its time: a pixel is three
    parts of one neighbour and one part of another, along each axis.
    """
    if maps.device.type != "cpu":
        return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]
    n, c, height, width = maps.shape
    # Columns first: writing every other one is slow, and now there are half as many rows.
    wide = maps.new_empty((n, c, height, 2 * width - 4))
    _interpolate(maps[..., :-2], maps[..., 1:-1], maps[..., 2:], (wide[..., 0::2], wide[..., 1::2]))
    both = maps.new_empty((n, c, 2 * height - 4, 2 * width - 4))
    _interpolate(wide[..., :-2, :], wide[..., 1:-1, :], wide[..., 2:, :], (both[..., 0::2, :], both[..., 1::2, :]))
    return both


def _interpolate(before: Tensor, here: Tensor, after: Tensor, out: tuple[Tensor, Tensor]) -> None:
    torch.lerp(here, before, 0.25, out=out[0])
    torch.lerp(here, after, 0.25, out=out[1])
