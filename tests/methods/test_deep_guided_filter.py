"""The guided filter with a learned guide: against the formula and finite differences, and that it learns edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from tests.methods.made import (
    accuracy,
    maps_of,
    shifted_disc,
)
from wsi_magnet.methods.deep_guided_filter import DeepGuidedFilter, centred_logits, grey_guided_filter


def with_head(n_classes: int, seed: int = 0) -> DeepGuidedFilter:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DeepGuidedFilter(n_classes, {}, DeepGuidedFilter.build_head(n_classes, 0))


def test_the_head_has_the_published_size() -> None:
    assert sum(weights.numel() for weights in DeepGuidedFilter.build_head(5, 256).parameters()) == 581


def test_the_filter_is_the_formula() -> None:
    """Window by window; a and b of each, then their mean over the windows that hold the pixel."""
    rng = torch.Generator().manual_seed(0)
    guide, maps = torch.randn(2, 1, 2, 13, 11, dtype=torch.float64, generator=rng)
    radius, epsilon = 3, 1e-2
    found = grey_guided_filter(guide, maps, radius, epsilon)[0].numpy()
    for k in range(2):
        fits = np.empty((2, 13, 11))
        for y, x in np.ndindex(13, 11):
            window = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            g, p = guide[0, k].numpy()[window], maps[0, k].numpy()[window]
            slope = ((g - g.mean()) * (p - p.mean())).mean() / (g.var() + epsilon)
            fits[:, y, x] = slope, p.mean() - slope * g.mean()
        for y, x in np.ndindex(13, 11):
            window = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            slope, offset = fits[:, *window].mean(axis=(1, 2))
            assert found[k, y, x] == pytest.approx(slope * guide[0, k, y, x].item() + offset, abs=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    maps, head = maps_of("blocks", 2, size_hw=(10, 12)), with_head(2).head
    assert head is not None
    assert maps.rgb is not None
    head, rgb, logits = head.double(), maps.rgb.double(), centred_logits(maps.coarse.double())
    names, weights = zip(*head.named_parameters(), strict=True)

    def filtered(logits: Tensor, *weights: Tensor) -> Tensor:
        guide = functional_call(head, dict(zip(names, weights, strict=True)), (rgb,))
        return grey_guided_filter(guide, logits, 4, 1e-2)

    assert torch.autograd.gradcheck(filtered, (logits.requires_grad_(), *weights), fast_mode=True)


def test_the_loss_is_that_of_its_probabilities() -> None:
    method, maps = with_head(3), maps_of("blocks", batch=2)
    sets = torch.tensor([0b001, 0b110, 0b111], dtype=torch.int32)[maps.coarse.argmax(dim=1)]
    found = method.refine(maps)
    allowed = torch.where(sets == 0b001, found[:, 0], found[:, 1] + found[:, 2])
    expected = -allowed.log()[sets != 0b111].mean()
    assert method.loss(maps, sets, torch.Generator()).item() == pytest.approx(expected.item(), rel=1e-4)


def test_it_learns_the_edges_of_the_image() -> None:
    method = with_head(2)
    maps, sets = shifted_disc(48, radius=13.0, blur=4)
    assert method.head is not None
    optimizer = torch.optim.Adam(method.head.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = method.loss(maps, sets, torch.Generator())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    with torch.no_grad():
        assert accuracy(method.refine(maps), sets) > accuracy(maps.coarse, sets) + 0.04
