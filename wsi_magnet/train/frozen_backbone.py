"""The trained backbone as the second stage uses it: frozen, with its temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def double(maps: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W), bilinear with half-pixel centres."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
