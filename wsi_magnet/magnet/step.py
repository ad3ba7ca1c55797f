"""The MagNet step itself: refine a patch, then overwrite what was selected.

N: batch, C: classes, H, W: size of the patch. Probabilities sum to 1 over C.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Refiner(Protocol):
    """A refinement module: two probability maps in, logits out; both are (N, C, H, W), so they go by name.

    One that has an attribute `reach_px` promises that a pixel's logits depend on no input farther away than that.
    """

    def __call__(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine: O of this scale, coarse: Y of the scales before; float (N, C, H, W) each. Returns logits of R."""
        ...


def refine_patch(*, fine: Tensor, coarse: Tensor, refiner: Refiner) -> Tensor:
    """R = softmax(refiner(O, Y)) (paper, section 3.2).

    fine: O, coarse: Y, both float (N, C, H, W), probabilities. Returns float32 (N, C, H, W), probabilities.
    """
    return refiner(fine=fine, coarse=coarse).float().softmax(dim=1)


def magnet_step(*, coarse: Tensor, refined: Tensor, selected: Tensor) -> Tensor:
    """Y with R in the selected pixels: a hard overwrite of all classes, no blending (paper, section 3.3).

    coarse: Y, refined: R, both float (N, C, H, W). selected: bool (N, 1, H, W), or float in [0, 1] for a soft
    selection, which mixes the two in that proportion. Returns float (N, C, H, W).
    """
    if selected.is_floating_point():
        return torch.lerp(coarse, refined, selected.expand_as(coarse))  # exact at 0 and at 1
    return torch.where(selected, refined, coarse)
