"""Networks of negligible arithmetic and known output, for tests and timing of the whole pipeline."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.network import NetworkInfo
from wsi_magnet.schema import Bounds

N_CLASSES = 3
"""One per colour channel."""

LEAST_PROBABILITY = 1e-30
"""Replaces 0 before the logarithm; float32 holds it."""


class IdentityNet(nn.Module):
    """Logits are the colour channels times a gain: the label is the strongest colour. It has no weights."""

    def __init__(self, n_classes: int = N_CLASSES, gain: Annotated[float, Bounds(0, open_below=True)] = 1.0) -> None:
        """n_classes: 3, one per colour channel. Raises BundleError for any other number."""
        super().__init__()
        if n_classes != N_CLASSES:
            raise BundleError(f"the identity network has {N_CLASSES} classes, one per colour channel; got {n_classes}")
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, 3, H, W), normalised, to logits of the same shape."""
        return x * self.gain


class IdentityRefiner(nn.Module):
    """Returns the finer map: the softmax of its logits is O."""

    receptive_radius_px = 0

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """Both probabilities, float (N, C, H, W); returns log(fine). `coarse` is ignored."""
        return fine.clamp(min=LEAST_PROBABILITY).log()


INFO = NetworkInfo("identity", IdentityNet, builds_on_meta=True)
