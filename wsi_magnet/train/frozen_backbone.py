"""The trained backbone as the second stage uses it: frozen, with its temperatures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.inference.features import FeatureTap
from wsi_magnet.nets.fold import fold_batch_norm
from wsi_magnet.train.loop import Setting
from wsi_magnet.train.views import View, Windows, inner, to_tensor


@dataclass(frozen=True, eq=False)
class FrozenBackbone:
    """A trained backbone with its temperatures."""

    network: nn.Module
    """Network in evaluation mode, batch normalisation folded."""
    temperatures: tuple[float, ...]
    """Temperature of each scale, coarse to fine."""
    windows: Windows
    setting: Setting
    tap: FeatureTap | None = None
    """Features of the network; see `with_features`."""

    @staticmethod
    def of(network: nn.Module, temperatures: Sequence[float], windows: Windows, setting: Setting) -> FrozenBackbone:
        """Make a frozen copy of a network."""
        folded = fold_batch_norm(network.eval()).requires_grad_(False)
        channels_last = folded.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return FrozenBackbone(channels_last, tuple(temperatures), windows, setting)

    @torch.no_grad()
    def logits(self, view: View, scale: int) -> Tensor:
        """Logits of a view's window at a scale, float32 (1, C, w, w), before temperature and softmax."""
        with self.setting.autocast():
            logits = self.network(to_tensor([view.patches[scale]], self.setting.device))
        return inner(logits.float(), self.windows.halo_at(scale)).contiguous()

    def probabilities(self, view: View) -> tuple[Tensor, ...]:
        """O of every scale, float32 (1, C, w, w)."""
        return tuple((self.logits(view, s) / t).softmax(dim=1) for s, t in enumerate(self.temperatures))

    def rgb(self, view: View, scale: int) -> Tensor:
        """Pixels of a view's window at a scale, float32 (1, 3, w, w), 0 to 1."""
        shown = torch.from_numpy(np.array(view.patches[scale])).to(self.setting.device)  # a copy: it may be read-only
        return inner(shown.permute(2, 0, 1)[None], self.windows.halo_at(scale)).float().div_(255)

    def with_features(self, kind: str) -> FrozenBackbone:
        """A copy that keeps the network's features. kind: of the network in the registry, one of its `HEADS`."""
        network = copy.deepcopy(self.network)
        return replace(self, network=network, tap=FeatureTap(network, kind))

    @torch.no_grad()
    def on_patches(self, views: Sequence[View], scale: int) -> tuple[Tensor, Tensor | None]:
        """Probabilities and features of whole patches, their halo included, at a scale.

        Returns float32 (N, C, p, p) and float32 (N, F, p / s, p / s), s: stride of the features; None without a tap.
        """
        with self.setting.autocast():
            logits = self.network(to_tensor([view.patches[scale] for view in views], self.setting.device))
        features = None if self.tap is None else self.tap.take().float().contiguous()
        return (logits.float() / self.temperatures[scale]).softmax(dim=1).contiguous(), features


def double(maps: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W), bilinear with half-pixel centres."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
