"""GF: the coarser result, filtered so that its edges follow those of the image.

Faithful to the guided filter with a colour guide: K. He, J. Sun, X. Tang, "Guided Image Filtering", ECCV 2010,
equations 5, 6 and 8, with the covariance matrix of three colours for the variance. In each window the result is a
linear function of the image, q = a · I + b, that fits the input best, with epsilon against large a; a pixel takes the
mean of the functions of its windows. Windows at the border hold the pixels that are there, as published.

Each class is filtered by itself, as published for one map; then the result is clipped at 0 and divided by its sum.
The radius is a length in micrometres. Local: a pixel depends on those up to two radii away.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from wsi_magnet.methods.box_filter import box_mean
from wsi_magnet.methods.method import Method, MethodInfo, PatchMaps


class GuidedFilter(Method):
    """The guided filter of the coarser result, with the image as its guide."""

    info = MethodInfo(
        name="GF",
        origin="faithful",
        source="He et al., Guided Image Filtering, ECCV 2010, equations 5, 6 and 8, with a colour guide",
        differs="Every class is filtered, then clipped at 0 and divided by the sum of all; the radius is a length.",
        parameters={"radius_um": 8.0, "epsilon": 1e-3},
        fit={"radius_um": (4.0, 8.0, 16.0), "epsilon": (1e-4, 1e-3, 1e-2)},
    )

    def radius_px(self, mpp: float) -> int:
        """Radius of the windows, at least a pixel."""
        return max(1, round(self.parameters["radius_um"] / mpp))

    def receptive_radius_px(self, mpp: float) -> int:
        """Two radii: of the windows of a pixel, and of the pixels in them."""
        return 2 * self.radius_px(mpp)

    def refine(self, maps: PatchMaps) -> Tensor:
        """Probabilities of the cell: float32 (N, C, H - 2 * margin_px, W - 2 * margin_px)."""
        assert maps.rgb is not None
        filtered = guided_filter(maps.rgb, maps.coarse, self.radius_px(maps.mpp), self.parameters["epsilon"])
        kept = maps.inner(filtered).clamp(min=0)
        return kept / kept.sum(dim=1, keepdim=True)  # the sum is 1 before clipping, so 1 at least


def guided_filter(guide: Tensor, maps: Tensor, radius: int, epsilon: float) -> Tensor:
    """Filter maps with a colour guide. guide: float (N, 3, H, W), 0 to 1; maps: float (N, K, H, W), as the result.

    epsilon: in squared units of the guide. Means are taken in the type of the arguments.
    """
    guide_mean, map_mean = box_mean(guide, radius), box_mean(maps, radius)
    shares = [
        box_mean(guide[:, i : i + 1] * maps, radius) - guide_mean[:, i : i + 1] * map_mean for i in range(3)
    ]  # covariance of the guide's channels and the maps
    slopes = _solve(_covariance(guide, guide_mean, radius), shares, epsilon)
    offset = map_mean - sum(slope * guide_mean[:, i : i + 1] for i, slope in enumerate(slopes))
    result = box_mean(offset, radius)
    for i, slope in enumerate(slopes):
        result = result + box_mean(slope, radius) * guide[:, i : i + 1]
    return result


def _covariance(guide: Tensor, mean: Tensor, radius: int) -> dict[tuple[int, int], Tensor]:
    """Covariances of the guide's channels i <= j in each window, (N, 1, H, W) each; variances not below 0."""
    pairs = [(i, j) for i, j in product(range(3), repeat=2) if i <= j]
    means = box_mean(torch.cat([guide[:, i : i + 1] * guide[:, j : j + 1] for i, j in pairs], dim=1), radius)
    found = {(i, j): means[:, k : k + 1] - mean[:, i : i + 1] * mean[:, j : j + 1] for k, (i, j) in enumerate(pairs)}
    return {(i, j): value.clamp(min=0) if i == j else value for (i, j), value in found.items()}


def _solve(covariance: dict[tuple[int, int], Tensor], right: list[Tensor], epsilon: float) -> list[Tensor]:
    """Solution x of (covariance + epsilon · 1) x = right at each pixel, by L D Lᵀ.

    Colours of a stained slide lie nearly on a line; the adjugate of so flat a matrix would be rounding error in
    float32. All three pivots are at least epsilon, which rounding may not undo.
    """
    s = covariance
    d0 = s[0, 0] + epsilon
    l10, l20 = s[0, 1] / d0, s[0, 2] / d0
    d1 = (s[1, 1] + epsilon - l10 * s[0, 1]).clamp(min=epsilon)
    rest = s[1, 2] - l20 * s[0, 1]
    l21 = rest / d1
    d2 = (s[2, 2] + epsilon - l20 * s[0, 2] - l21 * rest).clamp(min=epsilon)
    y0 = right[0]
    y1 = right[1] - l10 * y0
    y2 = right[2] - l20 * y0 - l21 * y1
    x2 = y2 / d2
    x1 = y1 / d1 - l21 * x2
    x0 = y0 / d0 - l10 * x1 - l20 * x2
    return [x0, x1, x2]
