"""Inputs of other methods, from the views of a training and the outputs of the frozen backbone on them.

N: views, C: classes, F: feature channels, s: stride of the features, p: side of a patch at a scale, its halo included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from wsi_magnet.geometry import ceil_div, round_up
from wsi_magnet.magnet.step import without_margin
from wsi_magnet.methods.method import Context, Method, Needs, PatchMaps
from wsi_magnet.train.frozen_backbone import FrozenBackbone, double
from wsi_magnet.train.score import ConfusionCounts
from wsi_magnet.train.views import STRIDE, View, Windows

DOUBLING_PX = 2
"""Pixels of the coarsest scale beyond which doubling, however often, depends on nothing."""

MOST_CACHED_BYTES = 4_000_000_000
"""Memory for the backbone's outputs on the validation views; those that find no room are computed each time."""


@dataclass(frozen=True, eq=False)
class BackboneOutputs:
    """Outputs of the backbone on the patches of views, halos included; None for what is not needed."""

    coarsest: Tensor
    """float32 (N, C, p, p): probabilities at the coarsest scale."""
    coarsest_features: Tensor | None
    """float32 (N, F, p / s, p / s)."""
    finest: Tensor | None
    """float32 (N, C, p, p): probabilities at the finest scale."""
    finest_features: Tensor | None
    """float32 (N, F, p / s, p / s)."""

    @property
    def size_bytes(self) -> int:
        """Memory."""
        maps = (self.coarsest, self.coarsest_features, self.finest, self.finest_features)
        return sum(one.nbytes for one in maps if one is not None)


def outputs_on(frozen: FrozenBackbone, views: Sequence[View], needs: Needs) -> BackboneOutputs:
    """Outputs of the backbone on views. frozen: with features where `needs` has them."""
    coarsest, around = frozen.on_patches(views, 0)
    finest = features = None
    if needs.fine or needs.features:
        finest, features = frozen.on_patches(views, frozen.windows.scales - 1)
    return BackboneOutputs(
        coarsest,
        around if needs.context else None,
        finest if needs.fine else None,
        features if needs.features else None,
    )


def all_needs(several: Iterable[Needs]) -> Needs:
    """Everything that any of several methods needs."""
    return reduce(
        lambda one, other: Needs(
            one.rgb or other.rgb,
            one.fine or other.fine,
            one.features or other.features,
            one.context or other.context,
            one.head or other.head,
        ),
        several,
        Needs(rgb=False),
    )


def patch_maps(
    views: Sequence[View], outputs: BackboneOutputs, needs: Needs, windows: Windows, margin_px: int = 0
) -> PatchMaps:
    """Inputs of a method on the windows of views with a margin, at most the halo, in pixels of the finest scale."""
    device, halo = outputs.coarsest.device, windows.halo_at(windows.scales - 1)
    return PatchMaps(
        coarse=upsampled(outputs.coarsest, windows, margin_px),
        mpp=windows.mpps[-1],
        margin_px=margin_px,
        rgb=without_margin(_rgb(views, device), halo - margin_px).contiguous() if needs.rgb else None,
        fine=_fine(outputs, halo - margin_px) if needs.fine else None,
        features=_features(outputs, windows, margin_px) if needs.features else None,
        context=_context(outputs, windows, margin_px) if needs.context else None,
    )


def upsampled(coarsest: Tensor, windows: Windows, margin_px: int) -> Tensor:
    """Probabilities of the coarsest scale at the finest, doubled step by step as in a run.

    coarsest: float32 (N, C, p, p), halo included. Returns (N, C, w, w), w: window and margin at the finest scale.
    """
    ratio, halo = 1 << (windows.scales - 1), windows.halo_at(0)
    kept = min(ceil_div(margin_px, ratio) + DOUBLING_PX, halo)
    maps = without_margin(coarsest, halo - kept).contiguous()
    for _ in range(windows.scales - 1):
        maps = double(maps)
    return without_margin(maps, kept * ratio - margin_px).contiguous()


def margin_of(method: Method, windows: Windows) -> int:
    """Margin of a method's patch round a window, in pixels of the finest scale, as far as the halo has it."""
    radius = method.receptive_radius_px(windows.mpps[-1])
    return min(round_up(radius, STRIDE), windows.halo_at(windows.scales - 1))


def _fine(outputs: BackboneOutputs, border_px: int) -> Tensor:
    assert outputs.finest is not None
    return without_margin(outputs.finest, border_px).contiguous()


def _features(outputs: BackboneOutputs, windows: Windows, margin_px: int) -> Tensor:
    features, finest = outputs.finest_features, windows.scales - 1
    assert features is not None
    stride = windows.patch_px(finest) // features.shape[-1]
    border = windows.halo_at(finest) - margin_px
    assert border % stride == 0, "windows and margins are multiples of every network's stride"
    return without_margin(features, border // stride).contiguous()


def _context(outputs: BackboneOutputs, windows: Windows, margin_px: int) -> Context:
    assert outputs.coarsest_features is not None
    ratio = 1 << (windows.scales - 1)
    corner = windows.halo_at(0) - margin_px / ratio
    return Context(outputs.coarsest, outputs.coarsest_features, ratio, (corner, corner))


def _rgb(views: Sequence[View], device: torch.device) -> Tensor:
    """float32 (N, 3, p, p) of the finest patches, 0 to 1."""
    stacked = np.stack([np.ascontiguousarray(view.patches[-1]) for view in views])
    return torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float().div_(255).contiguous()


class ValidationMaps:
    """Inputs of methods on the validation views; the outputs of the backbone are computed once for all methods."""

    def __init__(
        self, frozen: FrozenBackbone, views: Sequence[View], part_of: tuple[int, ...], needs: Iterable[Needs]
    ) -> None:
        """frozen: with the windows of these views. part_of: see `StageData`. needs: of all methods."""
        self.frozen = frozen
        self._views, self._part_of, self._needs = views, part_of, all_needs(needs)
        self._outputs: dict[int, BackboneOutputs] = {}
        self._free_bytes = MOST_CACHED_BYTES

    def __len__(self) -> int:
        """Number of views."""
        return len(self._views)

    @torch.no_grad()
    def miou(self, method: Method, chosen: Sequence[int], notify: Callable[[int], None]) -> float:
        """MIoU of a method on chosen views, 0 to 1. notify: called before each with the number of finished ones."""
        counts = ConfusionCounts(self._part_of)
        for done, index in enumerate(chosen):
            notify(done)
            view, windows = self._views[index], self.frozen.windows
            maps = patch_maps([view], self._outputs_on(index), method.info.needs, windows, margin_of(method, windows))
            counts.add(method.refine(maps), view.sets[-1])
        return counts.miou

    @torch.no_grad()
    def upsampled_miou(self) -> float:
        """MIoU of the coarsest result as it is, upsampled, on all views: what a method starts from."""
        counts = ConfusionCounts(self._part_of)
        for index, view in enumerate(self._views):
            counts.add(upsampled(self._outputs_on(index).coarsest, self.frozen.windows, 0), view.sets[-1])
        return counts.miou

    def _outputs_on(self, index: int) -> BackboneOutputs:
        if index in self._outputs:
            return self._outputs[index]
        found = outputs_on(self.frozen, [self._views[index]], self._needs)
        if found.size_bytes <= self._free_bytes:
            self._outputs[index] = found
            self._free_bytes -= found.size_bytes
        return found
