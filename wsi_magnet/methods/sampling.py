"""Bilinear sampling of maps at points. N: batch, K: channels, P: points, h, w: size of the maps."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def at_points(maps: Tensor, places_yx: Tensor) -> Tensor:
    """Values of maps at points, bilinear with half-pixel centres: float32 (N, K, P).

    maps: float (N, K, h, w). places_yx: float32 (N, P, 2), y and x in [0, 1] over the extent of the maps. Beyond the
    maps their nearest pixel is taken.
    """
    grid = (places_yx.flip(-1) * 2 - 1).unsqueeze(2)
    found = F.grid_sample(maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.squeeze(3)
