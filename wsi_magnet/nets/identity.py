"""Networks that compute next to nothing: the tiny truths that the whole flow is tested and timed against."""

from __future__ import annotations

from torch import Tensor, nn

from wsi_magnet.errors import BundleError

N_CLASSES = 3
"""One for each colour channel."""

LEAST_PROBABILITY = 1e-30
"""Stands for 0 before the logarithm: float32 can hold it, and it is nought for every purpose."""


class IdentityNet(nn.Module):
    """Logits are the colour channels times a gain, so that the label is the strongest colour; it has no weights."""

    def __init__(self, n_classes: int = N_CLASSES, gain: float = 1.0) -> None:
        """n_classes: 3, as there are colours; raises BundleError for any other."""
        super().__init__()
        if n_classes != N_CLASSES:
            raise BundleError(f"the identity network has {N_CLASSES} classes, one a colour channel; got {n_classes}")
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, 3, H, W), normalised, to logits of the same shape."""
        return x * self.gain


class IdentityRefiner(nn.Module):
    """Believes the finer map wholly: its softmax is O."""

    reach_px = 0

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """Both probabilities, float (N, C, H, W); returns log(fine). `coarse` is not looked at."""
        return fine.clamp(min=LEAST_PROBABILITY).log()
