"""The trained backbone as the second stage uses it: frozen, with its temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.inference.features import FeatureTap
from wsi_magnet.magnet.step import without_margin
from wsi_magnet.nets.fold import fold_batch_norm
from wsi_magnet.nets.frozen import copy_sharing_frozen
from wsi_magnet.nets.network import NetworkInfo, Normalisation
from wsi_magnet.nets.registry import network_info
from wsi_magnet.train.loop import Setting
from wsi_magnet.train.views import IMAGENET, View, Windows, to_tensor


@dataclass(frozen=True, eq=False)
class FrozenBackbone:
    """A trained backbone with its temperatures."""

    network: nn.Module
    """Network in evaluation mode, batch normalisation folded."""
    temperatures: tuple[float, ...]
    """Temperature of each scale, coarse to fine."""
    windows: Windows
    setting: Setting
    info: NetworkInfo | None = None
    """Description of the network; None for one that takes patches of any size."""
    normalisation: Normalisation = IMAGENET
    tap: FeatureTap | None = None
    """Features of the network; see `with_features`."""

    @staticmethod
    def of(
        network: nn.Module,
        temperatures: Sequence[float],
        windows: Windows,
        setting: Setting,
        info: NetworkInfo | None = None,
        normalisation: Normalisation = IMAGENET,
    ) -> FrozenBackbone:
        """Make a frozen copy of a network."""
        by_name = info is None or info.folds_by_name
        folded = fold_batch_norm(network.eval(), by_name=by_name).requires_grad_(False)
        channels_last = folded.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return FrozenBackbone(channels_last, tuple(temperatures), windows, setting, info, normalisation)

    @torch.no_grad()
    def logits(self, view: View, scale: int) -> Tensor:
        """Logits of a view's window at a scale, float32 (1, C, w, w), before temperature and softmax."""
        return without_margin(self._logits([view], scale), self.windows.halo_at(scale)).contiguous()

    def probabilities(self, view: View) -> tuple[Tensor, ...]:
        """O of every scale, float32 (1, C, w, w)."""
        return tuple((self.logits(view, s) / t).softmax(dim=1) for s, t in enumerate(self.temperatures))

    def rgb(self, view: View, scale: int) -> Tensor:
        """Pixels of a view's window at a scale, float32 (1, 3, w, w), 0 to 1."""
        shown = torch.from_numpy(np.array(view.patches[scale])).to(self.setting.device)  # a copy: it may be read-only
        return without_margin(shown.permute(2, 0, 1)[None], self.windows.halo_at(scale)).float().div_(255)

    def with_features(self, kind: str) -> FrozenBackbone:
        """A copy that keeps the network's features. kind: the network's name; it must have a head."""
        network = copy_sharing_frozen(self.network)
        return replace(self, network=network, tap=FeatureTap(network, network_info(kind)))

    @torch.no_grad()
    def on_patches(self, views: Sequence[View], scale: int) -> tuple[Tensor, Tensor | None]:
        """Probabilities and features of whole patches, their halo included, at a scale.

        Returns float32 (N, C, p, p) and float32 (N, F, p / s, p / s), s: stride of the features; None without a tap.
        """
        logits = self._logits(views, scale)
        features = None if self.tap is None else self.tap.take(logits.shape[-1]).float().contiguous()
        return (logits / self.temperatures[scale]).softmax(dim=1).contiguous(), features

    def _logits(self, views: Sequence[View], scale: int) -> Tensor:
        """Logits of whole patches, float32 (N, C, p, p)."""
        x = to_tensor([view.patches[scale] for view in views], self.setting.device, self.normalisation)
        with self.setting.autocast():
            logits = self.network(x) if self.info is None else self.info.logits(self.network, x)
        return logits.float()


def double(maps: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W), bilinear with half-pixel centres."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
