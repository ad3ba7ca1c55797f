"""Methods and patches for tests: random heads, random patches, and a true edge that the coarser result has blurred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.methods.method import Context, Method, PatchMaps
from wsi_magnet.methods.registry import method_class

FEATURES = 6
"""Channels of the features of `maps_of`."""

KINDS = ("smooth", "noise", "blocks", "one-hot", "uniform")
"""Kinds of coarser results."""


def random_head(name: str, n_classes: int, feature_channels: int = FEATURES, seed: int = 1) -> nn.Module | None:
    """A head that changes what it is given, unlike many a fresh one; None for a method that learns nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = method_class(name).build_head(n_classes, feature_channels)
        for weights in head.parameters() if head is not None else ():
            if weights.ndim > 1:
                nn.init.kaiming_normal_(weights)
    return None if head is None else head.eval()


def made_method(name: str, n_classes: int = 3, parameters: Mapping[str, float] | None = None) -> Method:
    """A method with a random head."""
    return method_class(name)(n_classes, parameters, random_head(name, n_classes))


def maps_of(
    kind: str = "smooth",
    n_classes: int = 3,
    *,
    seed: int = 0,
    batch: int = 1,
    size_hw: tuple[int, int] = (40, 48),
    flat: bool = False,
) -> PatchMaps:
    """Everything that a method may see: a coarser result of a kind, random colours and features, and a context four
    times as coarse that holds the patch away from its corner. flat: one colour and the same features everywhere.
    """
    rng = torch.Generator().manual_seed(seed)
    coarse = _coarse(kind, (batch, n_classes, *size_hw), rng)
    small = [-(-side // 4) for side in size_hw]
    wide = [4 * (-(-side // 4) + 2) for side in small]
    rgb, features, around = (
        0.6 * torch.ones(shape) if flat else torch.rand(shape, generator=rng)
        for shape in ((batch, 3, *size_hw), (batch, FEATURES, *small), (batch, FEATURES, *(one // 4 for one in wide)))
    )
    whole = torch.full((batch, n_classes, *wide), 1 / n_classes)
    return PatchMaps(coarse, 1.0, rgb=rgb, features=features, context=Context(whole, around, 4, (2.0, 3.0)))


def _coarse(kind: str, shape: tuple[int, int, int, int], rng: torch.Generator) -> Tensor:
    """Probabilities of a kind, float32 (N, C, H, W)."""
    if kind == "uniform":
        return torch.full(shape, 1 / shape[1])
    step = 1 if kind in ("noise", "one-hot") else 8
    small = 3 * torch.randn(*shape[:2], *(-(-side // step) + 1 for side in shape[2:]), generator=rng)
    mode = "bilinear" if kind == "smooth" else "nearest"
    logits = F.interpolate(small, scale_factor=step, mode=mode)[..., : shape[2], : shape[3]]
    if kind == "one-hot":
        return F.one_hot(logits.argmax(dim=1), shape[1]).movedim(-1, 1).float()
    return logits.softmax(dim=1)


def one_of(maps: PatchMaps, i: int) -> PatchMaps:
    """A patch of a batch by itself."""
    assert maps.rgb is not None
    assert maps.features is not None
    assert maps.context is not None
    own, context = slice(i, i + 1), maps.context
    context = replace(context, probabilities=context.probabilities[own], features=context.features[own])
    return replace(maps, coarse=maps.coarse[own], rgb=maps.rgb[own], features=maps.features[own], context=context)


def shifted_disc(size: int = 64, *, radius: float = 18.0, blur: int = 6) -> tuple[PatchMaps, Tensor]:
    """A disc of one colour on another, with a coarser result that is blurred and out of place; and its label sets.

    Returns the maps, two classes, and int32 (1, size, size) sets, a bit a class.
    """
    rows, cols = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = size / 2
    inside = ((rows - centre).square() + (cols - centre).square()).sqrt() < radius
    colours = torch.tensor([[0.9, 0.8, 0.9], [0.5, 0.3, 0.6]])
    rgb = colours[inside.long()].permute(2, 0, 1)[None]
    noise = 0.02 * torch.randn(rgb.shape, generator=torch.Generator().manual_seed(0))
    off = torch.roll(inside.float(), (2, -2), dims=(0, 1))[None, None]
    soft = F.avg_pool2d(off, 2 * blur + 1, 1, blur, count_include_pad=False)[0, 0]
    coarse = 0.9 * torch.stack([1 - soft, soft])[None] + 0.05
    return PatchMaps(coarse, 1.0, rgb=(rgb + noise).clamp(0, 1)), (1 << inside.int())[None].int()


def accuracy(probabilities: Tensor, sets: Tensor) -> float:
    """Share of the pixels whose likeliest class is in their set."""
    return ((sets >> probabilities.argmax(dim=1)) & 1).float().mean().item()
