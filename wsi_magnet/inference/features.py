"""Features of a patch, pooled over blocks, and their distance from the training data; no result depends on them.

N: patches, B: blocks along a cell's side, F: features of a block.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.errors import BundleError
from wsi_magnet.magnet.step import without_margin
from wsi_magnet.nets.network import NetworkInfo
from wsi_magnet.nets.profile import BLOCK_PX

LARGEST_STRIDE = 32
"""Largest stride of features; cells, halos and blocks are multiples of it."""


def count_blocks(cell_px: int) -> int:
    """Number of blocks of a cell with that side."""
    return (cell_px // BLOCK_PX) ** 2


class FeatureTap:
    """Input of a network's last layer, kept while the network computes; each thread has its own."""

    def __init__(self, network: nn.Module, info: NetworkInfo) -> None:
        """network: of the kind `info`, which must have a head."""
        self._kept = threading.local()
        self._name = info.name
        network.register_forward_pre_hook(self._note)
        info.head_of(network).register_forward_pre_hook(self._keep)

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._kept.side_px = inputs[0].shape[-1]

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._kept.features = inputs[0]

    def look(self, side_px: int) -> Tensor:
        """Features of the network's last call in this thread, (N, channels, side_px / s, side_px / s), which stay for
        `take`.

        side_px: of its patches, which may have been padded. Raises BundleError where the stride s does not divide 32.
        """
        features: Tensor = self._kept.features
        stride, rest = divmod(self._kept.side_px, features.shape[-1])
        if rest or LARGEST_STRIDE % stride:
            raise BundleError(
                f"network {self._name!r} has features of {features.shape[-1]} pixels a side for a patch of "
                f"{self._kept.side_px}; their stride must be 1, 2, 4, 8, 16 or {LARGEST_STRIDE}"
            )
        return features[..., : side_px // stride, : side_px // stride]

    def take(self, side_px: int) -> Tensor:
        """As `look`, and drops them."""
        features = self.look(side_px)
        del self._kept.features
        return features


def block_features(features: Tensor, image: Tensor, halo_px: int) -> Tensor:
    """Mean features of each block of the cell, and mean and deviation of its colours: float32 (N, B * B, F).

    features: (N, channels, h, w) of a patch; image: normalised RGB, float (N, 3, P, P); halo_px: of the patch.
    """
    stride = image.shape[-1] // features.shape[-1]
    structure = _pooled(without_margin(features, halo_px // stride).float(), BLOCK_PX // stride)
    colours = without_margin(image.float(), halo_px)
    mean = _pooled(colours, BLOCK_PX)
    deviation = (_pooled(colours.square(), BLOCK_PX) - mean.square()).clamp(min=0).sqrt()
    return torch.cat([structure, mean, deviation], dim=1).flatten(2).transpose(1, 2)


def distances_from(blocks: Tensor, mean: Tensor, whitening: Tensor, most: float) -> Tensor:
    """Distance of each block from the training data, at most `most`: float32 (N, B * B).

    blocks: float32 (N, B * B, F); mean: (F,), whitening: (F, F).
    """
    found: Tensor = ((blocks - mean) @ whitening.T).norm(dim=2)
    return found.clamp(max=most)


def _pooled(maps: Tensor, side: int) -> Tensor:
    """(N, channels, h, w) over a cell to (N, channels, B, B); side: of a block, in pixels of the maps."""
    return F.avg_pool2d(maps, side)
