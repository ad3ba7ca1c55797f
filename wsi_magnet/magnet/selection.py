"""Selection of the pixels that are overwritten: the best k of an image, or all above a threshold.

N: batch, H, W: size of the map. Scores are query scores: higher is chosen first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_magnet.errors import ConfigError


def select_fraction(score: Tensor, points: float, valid: Tensor | None = None) -> Tensor:
    """The best k pixels of each image, k over the whole image (paper, section 3.3).

    score: float (N, 1, H, W). points: up to 1 the share of the valid pixels, 1 being all; above 1 their number.
    valid: bool (N, 1, H, W), pixels that may be chosen; None is all. Equal scores are taken in raster order.
    Returns bool (N, 1, H, W). Raises ConfigError for a negative `points`.
    """
    if valid is None:
        valid = torch.ones_like(score, dtype=torch.bool)
    chosen = [_best(s, v, points) for s, v in zip(score.flatten(1), valid.flatten(1), strict=True)]
    return torch.stack(chosen).view_as(score)


def select_threshold(score: Tensor, above: float) -> Tensor:
    """Every pixel with at least that score: float (N, 1, H, W) to bool; does not depend on the rest of the slide."""
    return score >= above


def mixing_weight(score: Tensor, above: float, width: float) -> Tensor:
    """Weight of R in each pixel: 1 from a score of `above` on, as published, where `width` is 0.

    With a width it is 0 below `above`, 1 from `above + width` on, and linear between them, so that a pixel near the
    threshold does not change its class abruptly. Float (N, 1, H, W) to float in [0, 1], or bool where
    `width` is 0. Raises ConfigError for a negative width.
    """
    if width < 0:
        raise ConfigError(f"a selection cannot be {width:g} wide; give 0 for a hard one")
    if width == 0:
        return select_threshold(score, above)
    return ((score - above) / width).clamp(0, 1)


def count_points(points: float, valid_px: int) -> int:
    """k: a share of the valid pixels up to 1, a number of them above. Raises ConfigError for a negative one."""
    if not points >= 0:
        raise ConfigError(f"points {points:g} is neither a share between 0 and 1 nor a number of pixels")
    return min(int(points), valid_px) if points > 1 else round(points * valid_px)


def _best(score: Tensor, valid: Tensor, points: float) -> Tensor:
    """Bool (pixels,): the k best of the valid ones."""
    k = count_points(points, valid_px := int(valid.sum()))
    if k == valid_px:
        return valid
    if k == 0:
        return torch.zeros_like(valid)
    last_in = score[valid].kthvalue(valid_px - k + 1).values
    above, tied = valid & (score > last_in), valid & (score == last_in)
    # topk and sort promise no order among equals; the first in raster order are the same on every machine.
    return above | (tied & (tied.cumsum(0) <= k - above.sum()))
