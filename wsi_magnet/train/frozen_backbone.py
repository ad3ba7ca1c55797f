"""What stage 2 is given: a backbone that no longer changes, with its temperatures, and what it says of a view."""

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
    """A trained backbone."""

    network: nn.Module
    """In evaluation mode, batch normalisation folded away."""
    temperatures: tuple[float, ...]
    """Of each scale, coarse to fine."""
    windows: Windows
    setting: Setting

    @staticmethod
    def of(network: nn.Module, temperatures: Sequence[float], windows: Windows, setting: Setting) -> FrozenBackbone:
        """A copy of a network that is not to be trained."""
        folded = fold_batch_norm(network.eval()).requires_grad_(False)
        channels_last = folded.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return FrozenBackbone(channels_last, tuple(temperatures), windows, setting)

    @torch.no_grad()
    def logits(self, view: View, scale: int) -> Tensor:
        """Of a view's window at a scale, float32 (1, C, w, w), before temperature and softmax."""
        with self.setting.autocast():
            logits = self.network(to_tensor([view.patches[scale]], self.setting.device))
        return inner(logits.float(), self.windows.halo_at(scale)).contiguous()

    def probabilities(self, view: View) -> tuple[Tensor, ...]:
        """O of every scale, float32 (1, C, w, w)."""
        return tuple((self.logits(view, s) / t).softmax(dim=1) for s, t in enumerate(self.temperatures))


def double(maps: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W), bilinear with half-pixel centres."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
