"""GLNet: features of the right place reach the other branch, and a head that needs both learns to use both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wsi_magnet.methods.glnet import GlNet, GlobalLocal, nearby, onto_context
from wsi_magnet.methods.method import Context, PatchMaps
from wsi_magnet.nets.fpn import LATERAL, SMOOTH, Fpn
from wsi_magnet.nets.resnet import CHANNELS

STRIDE, RATIO = 4, 4


def context_of(features: Tensor, corner_yx: tuple[float, float], n_classes: int = 2, ratio: int = RATIO) -> Context:
    n, _, height, width = features.shape
    probabilities = torch.full((n, n_classes, height * STRIDE, width * STRIDE), 1 / n_classes)
    return Context(probabilities, features, ratio, corner_yx)


def places(height: int, width: int) -> Tensor:
    """Features (1, 2, height, width) that are the y and x of their own centre, in pixels of the features."""
    return torch.stack(torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"))[None]


def random_maps(
    seed: int, n: int = 2, n_classes: int = 2, side: int = 96, margin_px: int = 0, channels: int = 3
) -> PatchMaps:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, n_classes, side, side, generator=rng).softmax(dim=1)
    features = torch.randn(n, channels, side // STRIDE, side // STRIDE, generator=rng)
    whole = torch.randn(n, channels, 16, 20, generator=rng)
    return PatchMaps(coarse, 0.5, margin_px, features=features, context=context_of(whole, (18.5, 27.25), n_classes))


def made(n_classes: int = 2, channels: int = 3, seed: int = 0) -> GlNet:
    torch.manual_seed(seed)
    return GlNet(n_classes, head=GlobalLocal(n_classes, channels))


def only(layer: nn.Conv2d, pairs: dict[int, int]) -> None:
    """Let a convolution copy input channels (values) to output channels (keys), and nothing else."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    for out, used in pairs.items():
        nn.init.constant_(layer.weight[out, used, 1, 1], 1.0)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_head_has_the_parameters_that_are_published_above_the_last_shared_level() -> None:
    """The published 79.2 million, taken apart: two trunks, a plain pyramid, two with doubled inputs, and this head."""
    fpn, head = Fpn(5), GlNet.build_head(5, 4 * SMOOTH)
    trunk, plain = count(fpn.resnet_backbone), count(fpn) - count(fpn.resnet_backbone) - count(fpn.classify)
    doubled = 0
    for channels in CHANNELS:
        doubled += (2 * channels + 1) * LATERAL
        doubled += (2 * LATERAL * 9 + 1) * LATERAL + (2 * LATERAL * 9 + 1) * SMOOTH
    assert count(head) == 9_530_383
    assert 2 * trunk + plain + 2 * doubled + count(head) == 79_164_047


def test_the_context_reaches_the_local_branch_at_the_patch() -> None:
    """Features that are positions: a patch of 64 x 48 at (10, 13.5) of the context covers 16 x 12 of its pixels."""
    with torch.no_grad():
        head = GlobalLocal(2, 2)
        only(head.merge_local, {0: 2, 1: 3})
        only(head.classify_fused, {0: 0, 1: 1})
        found = head(torch.zeros(1, 2, 16, 12), context_of(places(12, 14), (10.0, 13.5)), (64, 48))
    expected_y = (10 + (torch.arange(16) + 0.5) * 4 / RATIO) / STRIDE
    expected_x = (13.5 + (torch.arange(12) + 0.5) * 4 / RATIO) / STRIDE
    torch.testing.assert_close(found.fused[0, 0], expected_y[:, None].expand(16, 12))
    torch.testing.assert_close(found.fused[0, 1], expected_x[None].expand(16, 12))


def test_local_features_reach_the_global_branch_where_the_patch_lies() -> None:
    """A patch of 32 x 32 covers two by two of the context's features: each has the mean of four by four, others 0."""
    local = torch.arange(64.0).view(1, 1, 8, 8)
    found = onto_context(local, context_of(torch.zeros(1, 1, 5, 6), (4.0, 8.0)), (32, 32))
    expected = torch.zeros(5, 6)
    for i in range(2):
        for j in range(2):
            expected[1 + i, 2 + j] = local[0, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean()
    torch.testing.assert_close(found[0, 0], expected)


def test_the_global_branch_sees_the_local_features() -> None:
    with torch.no_grad():
        head = GlobalLocal(2, 1)
        only(head.merge_whole, {0: 1})
        only(head.classify_fused, {0: 1})
        constant = head(torch.full((1, 1, 24, 24), 7.0), context_of(torch.zeros(1, 1, 8, 8), (4.0, 4.0)), (96, 96))
    torch.testing.assert_close(constant.fused[0, 0, 2:-2, 2:-2], torch.full((20, 20), 7.0))


@given(st.floats(-20, 60), st.floats(-20, 60), st.sampled_from([2, 3, 4, 8]), st.integers(1, 9), st.integers(1, 9))
def test_means_over_any_place_are_what_their_twin_says(y: float, x: float, ratio: int, height: int, width: int) -> None:
    """The twin counts 50 points an axis in each local pixel."""
    rng = np.random.default_rng(height * 10 + width)
    local = rng.normal(size=(height, width))
    context = context_of(torch.zeros(1, 1, 6, 7), (y, x), ratio=ratio)
    found = onto_context(torch.tensor(local)[None, None], context, (height * STRIDE, width * STRIDE))[0, 0]
    fine = np.kron(local, np.ones((50, 50)))
    row = np.floor((y + (np.arange(height * 50) + 0.5) / 50 * STRIDE / ratio) / STRIDE)
    column = np.floor((x + (np.arange(width * 50) + 0.5) / 50 * STRIDE / ratio) / STRIDE)
    for i, j in np.ndindex(6, 7):
        counted = fine[np.ix_(row == i, column == j)]
        if counted.size > 5000:
            assert found[i, j].item() == pytest.approx(counted.mean(), abs=0.1)
        tall, wide = (length * STRIDE / ratio for length in (height, width))
        meets = y < (i + 1) * STRIDE and y + tall > i * STRIDE and x < (j + 1) * STRIDE and x + wide > j * STRIDE
        if not meets:
            assert found[i, j].item() == 0


@given(st.floats(-8, 40), st.floats(-8, 60), st.integers(0, 100))
def test_the_part_of_the_context_nearby_is_enough(y: float, x: float, seed: int) -> None:
    maps = random_maps(seed, n=1, side=64)
    assert maps.features is not None
    assert maps.context is not None
    whole = replace(maps.context, corner_yx=(y, x))
    part = nearby(whole, (64, 64))
    assert part.features.numel() <= whole.features.numel()
    head = made(seed=seed).head
    assert isinstance(head, GlobalLocal)
    found, expected = head(maps.features, whole, (64, 64)).fused, uncropped(head, maps.features, whole)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def uncropped(head: GlobalLocal, local: Tensor, context: Context) -> Tensor:
    """Fused logits by the head written down once more, on the whole context."""
    size, patch = (16, 16), (64, 64)
    below = context.at(context.features, size, patch)
    whole = head.merge_whole(torch.cat([context.features, onto_context(local, context, patch)], 1))
    merged = torch.cat([head.merge_local(torch.cat([local, below], 1)), context.at(whole, size, patch)], 1)
    fused: Tensor = head.classify_fused(merged)
    return fused


def test_a_small_patch_leaves_most_of_the_context_out() -> None:
    context = context_of(torch.zeros(1, 1, 100, 100), (200.0, 4.0))
    assert nearby(context, (64, 64)).features.shape[2:] == (12, 9)


def test_the_coupling_moves_the_local_branch_alone() -> None:
    maps = random_maps(5)
    method = GlNet(2, {"coupling": 1.0}, GlobalLocal(2, 3))
    method.loss(maps, torch.full((2, 96, 96), 3, dtype=torch.int32), torch.Generator()).backward()
    head = method.head
    assert isinstance(head, GlobalLocal)
    assert head.merge_local.weight.grad is not None
    assert head.merge_local.weight.grad.abs().sum() > 0
    assert head.merge_whole.weight.grad is not None
    assert head.merge_whole.weight.grad.abs().sum() == 0


def task(seed: int, n: int = 4) -> tuple[PatchMaps, Tensor]:
    """Class 1 or 2 inside a square, which the context alone knows; its outline, which the patch alone knows.

    The context's features have 1 or -1 all over for the class; the patch's are 1 inside the square.
    """
    rng = np.random.default_rng(seed)
    side, kinds = 96, rng.integers(1, 3, n)
    labels = np.zeros((n, side, side), np.int64)
    for i, kind in enumerate(kinds):
        top, left = rng.integers(0, 12, 2) * STRIDE
        labels[i, top : top + 48, left : left + 44] = kind
    truth = torch.tensor(labels)
    inside = nn.functional.avg_pool2d((truth > 0).float().unsqueeze(1), STRIDE)
    whole = torch.tensor(np.where(kinds == 1, 1.0, -1.0), dtype=torch.float32).view(-1, 1, 1, 1)
    features = torch.cat([inside, torch.zeros_like(inside)], dim=1)
    context = torch.cat([torch.zeros(n, 1, 16, 16), whole.expand(n, 1, 16, 16)], dim=1)
    coarse = torch.full((n, 3, side, side), 1 / 3)
    return PatchMaps(coarse, 0.5, features=features, context=context_of(context, (20.0, 20.0), 3)), truth


def steps(method: GlNet, count: int) -> list[float]:
    assert method.head is not None
    optimiser, losses = torch.optim.Adam(method.head.parameters(), 0.01), []
    for step in range(count):
        maps, truth = task(step)
        loss = method.loss(maps, (1 << truth).int(), torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_the_loss_falls_and_every_parameter_has_a_gradient() -> None:
    method = made(3, 2)
    assert method.head is not None
    losses = steps(method, 8)
    assert losses[-1] < 0.8 * losses[0]
    for name, parameter in method.head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
def test_it_learns_what_neither_branch_knows_alone() -> None:
    method = made(3, 2)
    steps(method, 80)
    maps, truth = task(10**6, n=16)
    assert (method.refine(maps).argmax(dim=1) == truth).float().mean() > 0.97
    assert maps.features is not None
    blind = replace(maps, features=torch.zeros_like(maps.features))
    assert (method.refine(blind).argmax(dim=1) == truth).float().mean() < 0.9
