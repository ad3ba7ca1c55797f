"""Two methods for the tests: one learns from everything that a method may see, the other has parameters to fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.methods import registry
from wsi_magnet.methods.losses import set_loss
from wsi_magnet.methods.method import Method, MethodInfo, Needs, PatchMaps


class Blend(Method):
    """A linear layer over all inputs of a pixel; half of the pixels, drawn at random, are learned from."""

    info = MethodInfo(
        "Blend", "reimplemented", "none", "nothing", Needs(fine=True, features=True, context=True, head=True)
    )

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> nn.Module:
        """A 1x1 convolution."""
        return nn.Sequential(nn.Conv2d(3 * n_classes + 3 + 2 * feature_channels, n_classes, 1))

    def refine(self, maps: PatchMaps) -> Tensor:
        """Softmax of the layer."""
        return maps.inner(self._logits(maps).softmax(dim=1))

    def loss(self, maps: PatchMaps, sets: Tensor, rng: torch.Generator, class_weights: Tensor | None = None) -> Tensor:
        """Set loss."""
        drawn = torch.rand(sets.shape, generator=rng) < 0.5
        every = (1 << self.n_classes) - 1
        return set_loss(self._logits(maps), torch.where(drawn, sets, every), class_weights)

    def _logits(self, maps: PatchMaps) -> Tensor:
        context, size = maps.context, maps.size_hw
        assert self.head is not None
        assert maps.rgb is not None
        assert maps.fine is not None
        assert maps.features is not None
        assert context is not None
        around = [context.at(one, size, size) for one in (context.probabilities, context.features)]
        features = F.interpolate(maps.features, size, mode="nearest")
        logits: Tensor = self.head(torch.cat([maps.coarse, maps.fine, maps.rgb, features, *around], dim=1))
        return logits


class Dark(Method):
    """The last class where the green of a pixel is below a threshold, mixed with the coarser result."""

    info = MethodInfo(
        "Dark",
        "reimplemented",
        "none",
        "nothing",
        parameters={"threshold": 0.1, "weight": 0.4, "unused": 1.0},
        fit={"threshold": (0.1, 0.3, 0.58, 0.9), "weight": (0.1, 0.4, 0.9)},
    )

    def receptive_radius_px(self, mpp: float) -> int:
        """A margin, of which nothing is used."""
        return 5

    def refine(self, maps: PatchMaps) -> Tensor:
        """The mixture."""
        assert maps.rgb is not None
        assert maps.fine is None, "only what a method needs is there"
        last = (maps.rgb[:, 1:2] < self.parameters["threshold"]).float()
        dark = torch.cat([1 - last, last], dim=1)
        weight = self.parameters["weight"]
        return maps.inner(weight * dark + (1 - weight) * maps.coarse)


@contextmanager
def registered() -> Iterator[None]:
    """Context in which the registry has both methods, by entry points."""
    points = [EntryPoint(name, f"{__name__}:{name}", registry.GROUP) for name in ("Blend", "Dark")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", lambda group: points)
        yield
