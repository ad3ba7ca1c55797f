"""Windows with a known truth: discs and rectangles whose colours show their borders; the coarser result is off."""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_magnet.methods.method import PatchMaps
from wsi_magnet.methods.perturb import box_blur, shifted


def labels_of(rng: torch.Generator, n_classes: int, size: int) -> Tensor:
    """int64 (size, size): a shape of each class but the first on the first."""
    labels = torch.zeros(size, size, dtype=torch.int64)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for label in range(1, n_classes):
        y, x = (torch.rand(2, generator=rng) * size).tolist()
        tall, wide = ((0.15 + 0.2 * torch.rand(2, generator=rng)) * size).tolist()
        if label % 2:
            inside = ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 < 1
        else:
            inside = ((rows - y).abs() < tall) & ((columns - x).abs() < wide)
        labels[inside] = label
    return labels


def window(seed: int, n_classes: int = 3, size: int = 64, shift: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """RGB (3, size, size), coarser result (n_classes, size, size), and labels int64 (size, size)."""
    rng = torch.Generator().manual_seed(seed)
    labels = labels_of(rng, n_classes, size)
    colours = torch.tensor([[0.9, 0.8, 0.9], [0.5, 0.2, 0.6], [0.8, 0.5, 0.6], [0.3, 0.3, 0.7], [0.7, 0.2, 0.2]])
    rgb = colours[labels].movedim(-1, 0) + 0.05 * torch.randn(3, size, size, generator=rng)
    off = [int(torch.randint(2, (), generator=rng)) * 2 * shift - shift for _ in range(2)]
    sharp = torch.nn.functional.one_hot(labels, n_classes).movedim(-1, 0).float()
    return rgb.clamp(0, 1), box_blur(shifted(sharp, (off[0], off[1])), 3), labels


def windows(seeds: range, n_classes: int = 3, size: int = 64, shift: int = 4) -> tuple[PatchMaps, Tensor]:
    """Maps of a batch, and its label sets, int32 (N, size, size), one class each."""
    rgb, coarse, labels = (
        torch.stack(each) for each in zip(*(window(s, n_classes, size, shift) for s in seeds), strict=True)
    )
    return PatchMaps(coarse, 1.0, rgb=rgb), (1 << labels).int()
