"""Patches for the tests of methods: drawn at random, or with a true edge that the coarser result has blurred."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wsi_magnet.methods.method import Method, PatchMaps


def random_maps(
    n_classes: int = 3, *, seed: int = 0, batch: int = 1, size_hw: tuple[int, int] = (40, 48), mpp: float = 1.0
) -> PatchMaps:
    """Blocks of random colours and probabilities, with noise."""
    rng = torch.Generator().manual_seed(seed)

    def blocky(channels: int) -> Tensor:
        coarse = torch.rand(batch, channels, -(-size_hw[0] // 8), -(-size_hw[1] // 8), generator=rng)
        fine = coarse.repeat_interleave(8, dim=-2).repeat_interleave(8, dim=-1)[..., : size_hw[0], : size_hw[1]]
        return (fine + 0.05 * torch.randn(batch, channels, *size_hw, generator=rng)).clamp(0, 1)

    probabilities = (4 * blocky(n_classes)).softmax(dim=1)
    return PatchMaps(probabilities, mpp, rgb=blocky(3))


def constant_maps(probabilities: list[float], size_hw: tuple[int, int] = (24, 24)) -> PatchMaps:
    """The same probabilities and the same colour everywhere."""
    coarse = torch.tensor(probabilities).view(1, -1, 1, 1).expand(1, -1, *size_hw).contiguous()
    rgb = torch.tensor([0.8, 0.5, 0.7]).view(1, 3, 1, 1).expand(1, 3, *size_hw).contiguous()
    return PatchMaps(coarse, 1.0, rgb=rgb)


def extreme_maps(n_classes: int) -> dict[str, PatchMaps]:
    """Certain, undecided and random results on flat and on noisy images."""
    noisy = random_maps(n_classes, seed=5)
    certain = torch.zeros_like(noisy.coarse).scatter_(1, noisy.coarse.argmax(dim=1, keepdim=True), 1.0)
    uniform = torch.full_like(noisy.coarse, 1 / n_classes)
    flat = torch.full_like(noisy.rgb, 0.6) if noisy.rgb is not None else None
    return {
        "random": noisy,
        "certain": replace(noisy, coarse=certain),
        "uniform": replace(noisy, coarse=uniform),
        "certain on a flat image": replace(noisy, coarse=certain, rgb=flat),
        "uniform on a flat image": replace(noisy, coarse=uniform, rgb=flat),
        "black and white": replace(noisy, rgb=(noisy.rgb > 0.5).float() if noisy.rgb is not None else None),
    }


def assert_probabilities(found: Tensor, shape: tuple[int, ...]) -> None:
    """Raise AssertionError unless these are probabilities of that shape."""
    assert found.shape == shape
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert bool((found >= 0).all())
    assert bool(((found.sum(dim=1) - 1).abs() < 1e-4).all())


def assert_batch_equals_single(method: Method, maps: PatchMaps) -> None:
    """Raise AssertionError unless a batch has the bits of its patches one at a time."""
    assert maps.rgb is not None
    single = [
        method.refine(replace(maps, coarse=maps.coarse[i : i + 1], rgb=maps.rgb[i : i + 1]))
        for i in range(len(maps.coarse))
    ]
    assert torch.equal(method.refine(maps), torch.cat(single))


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
    soft = torch.nn.functional.avg_pool2d(off, 2 * blur + 1, 1, blur, count_include_pad=False)[0, 0]
    coarse = 0.9 * torch.stack([1 - soft, soft])[None] + 0.05
    return PatchMaps(coarse, 1.0, rgb=(rgb + noise).clamp(0, 1)), (1 << inside.int())[None].int()


def accuracy(probabilities: Tensor, sets: Tensor) -> float:
    """Share of the pixels whose likeliest class is in their set."""
    return ((sets >> probabilities.argmax(dim=1)) & 1).float().mean().item()
