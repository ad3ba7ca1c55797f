"""PointRend: its size as published, its points and its rendering against brute force, and what it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.methods.test_sampling import slow_at
from wsi_magnet.magnet.uncertainty import confidence
from wsi_magnet.methods.method import Context, PatchMaps
from wsi_magnet.methods.pointrend import (
    LEAST_PROBABILITY,
    SURE_MARGIN,
    PointHead,
    PointRend,
    coarse_logits,
    draw_places,
    most_uncertain,
)

CHANNELS = 6


class CoarseAsLogits(nn.Module):
    """A head that keeps the coarse logits."""

    def forward(self, *, features: Tensor, coarse: Tensor) -> Tensor:
        """(N, C, P) to the same."""
        return coarse


class FeaturesAsLogits(nn.Module):
    """A head whose logits are the first features, ten times."""

    def forward(self, *, features: Tensor, coarse: Tensor) -> Tensor:
        """(N, F, P) to (N, C, P)."""
        return 10 * features[:, : coarse.shape[1]]


def made_head(n_classes: int, seed: int = 0) -> nn.Module:
    """A head with predictions that differ from point to point."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = PointRend.build_head(n_classes, CHANNELS)
        nn.init.normal_(head.predict.weight, std=0.2)
    return head.eval()


def made_maps(
    seed: int,
    n_classes: int = 3,
    size_hw: tuple[int, int] = (16, 24),
    ratio: int = 4,
    batch: int = 1,
    margin_px: int = 0,
) -> PatchMaps:
    """A smooth coarse map, and a context that holds the patch away from its corner."""
    rng = torch.Generator().manual_seed(seed)
    small = torch.randn(batch, n_classes, *(-(-side // 4) for side in size_hw), generator=rng) * 2
    coarse = nn.functional.interpolate(small, size=size_hw, mode="bilinear").softmax(dim=1)
    extent = tuple(side // ratio + 5 for side in size_hw)
    features = torch.randn(batch, CHANNELS, *(max(1, side // 2) for side in extent), generator=rng)
    context = Context(torch.zeros(batch, n_classes, *extent), features, ratio, (2.0, 3.0))
    return PatchMaps(coarse, 1.0, margin_px, context=context)


def slow_margin(logits: Tensor) -> float:
    first, second = sorted(logits.tolist(), reverse=True)[:2]
    return float(first - second)


def slow_double(maps: Tensor) -> Tensor:
    """(K, h, w) at twice the resolution."""
    height, width = maps.shape[-2:]
    rows = [
        torch.stack([slow_at(maps, (y + 0.5) / 2, (x + 0.5) / 2) for x in range(2 * width)], dim=1)
        for y in range(2 * height)
    ]
    return torch.stack(rows, dim=1)


def slow_features(context: Context, point_yx: tuple[float, float]) -> Tensor:
    """Features (F,) of the context at a point of the patch."""
    at_y, at_x = (
        (corner + at / context.ratio) * size / extent
        for corner, at, size, extent in zip(
            context.corner_yx, point_yx, context.features.shape[-2:], context.probabilities.shape[-2:], strict=True
        )
    )
    return slow_at(context.features[0], at_y, at_x)


def slow_refine(method: PointRend, maps: PatchMaps) -> Tensor:
    """Point after point, in float64, of a batch of one."""
    context, (height, width), coarse = maps.context, maps.size_hw, maps.coarse[0].double()
    assert context is not None
    assert method.head is not None
    count = max(1, round(method.parameters["share"] * height * width))
    change = torch.zeros(len(coarse), height // context.ratio, width // context.ratio, dtype=torch.float64)
    block = context.ratio // 2
    while block:
        change = slow_double(change)
        own = torch.zeros_like(change)
        for y in range(own.shape[1]):
            for x in range(own.shape[2]):
                mean = coarse[:, y * block : (y + 1) * block, x * block : (x + 1) * block].mean(dim=(1, 2))
                own[:, y, x] = mean.clamp(min=LEAST_PROBABILITY).log()
        places = [(y, x) for y in range(own.shape[1]) for x in range(own.shape[2])]
        margins = {at: slow_margin((own + change)[:, at[0], at[1]]) for at in places}
        for y, x in sorted(places, key=lambda at: (round(margins[at], 6), at))[:count]:
            if margins[y, x] >= SURE_MARGIN:
                continue
            features = slow_features(context, ((y + 0.5) * block, (x + 0.5) * block)).float().view(1, -1, 1)
            logits = method.head(features=features, coarse=own[:, y, x].float().view(1, -1, 1))
            change[:, y, x] = logits.detach().double().view(-1) - own[:, y, x]
        block //= 2
    refined = (coarse.clamp(min=LEAST_PROBABILITY).log() + change).softmax(dim=0)
    return maps.inner(torch.where((change != 0).any(dim=0), refined, coarse))[None].float()


def test_the_head_has_the_published_number_of_weights() -> None:
    head = PointRend.build_head(5, 256)
    assert sum(weight.numel() for weight in head.parameters()) == 202_526
    assert 0.0005 < head.predict.weight.std().item() < 0.0015
    assert head.predict.bias is not None
    assert (head.predict.bias == 0).all()


@pytest.mark.parametrize("seeing", [0, 1, 2, 3])
def test_every_layer_sees_the_coarse_logits(seeing: int) -> None:
    """Where all layers but one are blind to them, they still count."""
    head = PointHead(3, CHANNELS)
    nn.init.normal_(head.predict.weight)
    with torch.no_grad():
        for index, layer in enumerate([*head.layers, head.predict]):
            assert isinstance(layer, nn.Conv1d)
            layer.weight[:, -3:] *= index == seeing
    one, other = (head(features=torch.ones(1, CHANNELS, 2), coarse=torch.full((1, 3, 2), v)) for v in (0.0, 1.0))
    assert not torch.allclose(one, other)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 40))
def test_the_most_uncertain_are_those_of_brute_force(seed: int, levels: int, count: int) -> None:
    """Few levels: most margins are equal, and of equal ones the first comes first."""
    margins = torch.randint(levels, (2, 1, 5, 7), generator=torch.Generator().manual_seed(seed)).float()
    found = most_uncertain(margins, count)
    for n in range(2):
        flat = margins[n].flatten().tolist()
        assert found[n].tolist() == sorted(range(35), key=lambda i: (flat[i], i))[:count]


@pytest.mark.parametrize("ratio", [2, 4, 8])
@pytest.mark.parametrize("share", [0.02, 0.2, 1.0])
def test_a_patch_is_rendered_as_point_after_point(ratio: int, share: float) -> None:
    maps = made_maps(ratio, size_hw=(16, 8), ratio=ratio, margin_px=2)
    method = PointRend(3, {"share": share}, made_head(3))
    assert torch.allclose(method.refine(maps), slow_refine(method, maps), atol=2e-4)


def test_a_uniform_result_is_rendered_as_in_the_paper() -> None:
    """Where the coarse logits are the same at all resolutions, the upsampled logits are kept themselves."""
    maps = replace(made_maps(1, ratio=8), coarse=torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1).expand(1, 3, 16, 24))
    context, head = maps.context, made_head(3)
    assert context is not None
    logits = coarse_logits(maps.coarse[..., :2, :3])
    for block in (4, 2, 1):
        logits = nn.functional.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        index = most_uncertain(confidence(logits), 40)[0]
        points = torch.stack([index // logits.shape[-1], index % logits.shape[-1]], dim=-1)[None]
        features = context.at_points(context.features, (points + 0.5) * block)
        coarse = coarse_logits(maps.coarse)[..., 0, :1].expand(-1, -1, index.numel())
        logits.flatten(2)[..., index] = head(features=features, coarse=coarse).detach()
    found = PointRend(3, {"share": 40 / 384}, head).refine(maps)
    assert torch.allclose(found, logits.softmax(dim=1), atol=1e-4)


def test_as_many_pixels_as_wished_change_and_they_are_the_most_uncertain() -> None:
    maps = made_maps(5, ratio=2)
    found = PointRend(3, {"share": 20 / 384}, made_head(3)).refine(maps)
    changed = (found != maps.coarse).any(dim=1)[0]
    assert changed.sum() == 20
    margins = confidence(coarse_logits(maps.coarse))[0, 0]
    assert margins[changed].max() <= margins[~changed].min()


def test_pixels_that_are_certain_stay_whatever_the_head_says() -> None:
    maps = made_maps(6)
    one_hot = nn.functional.one_hot(torch.tensor(1), 3).float().view(1, 3, 1, 1).expand(1, 3, 16, 24)
    found = PointRend(3, {"share": 1.0}, made_head(3)).refine(replace(maps, coarse=one_hot))
    assert torch.equal(found, one_hot)


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_the_truth_in_the_features_comes_to_its_place(ratio: int) -> None:
    """Every point is predicted again, from features that are the truth where the patch lies in its context."""
    maps = made_maps(7, 2, (16, 24), ratio)
    assert maps.context is not None
    extent = maps.context.probabilities.shape[-2:]
    truth = torch.zeros(1, 1, *extent)
    truth[..., 3:, 4:] = 1  # a pixel of the context further in than the patch's corner
    context = replace(maps.context, features=torch.cat([1 - truth, truth], dim=1))
    maps = replace(maps, coarse=torch.full((1, 2, 16, 24), 0.5), context=context)
    found = PointRend(2, {"share": 1.0}, FeaturesAsLogits()).refine(maps)[0, 1] > 0.5
    # The truth's corner is at (ratio, ratio); from one pixel of the context to the next it rises along a line.
    rise_y, rise_x = (((torch.arange(side) + 0.5) / ratio - 0.5).clamp(0, 1) for side in (16, 24))
    expected = rise_y[:, None] * rise_x[None] > 0.5
    assert torch.equal(found, expected & (ratio > 1))


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_without_the_choice_of_points_nothing_far_away_counts(ratio: int) -> None:
    maps, method = made_maps(9, size_hw=(24, 64), ratio=ratio), PointRend(3, {"share": 1.0}, made_head(3))
    coarse = maps.coarse.clone()
    coarse[..., :20] = coarse[..., :20].flip(1)
    changed = (method.refine(replace(maps, coarse=coarse)) != method.refine(maps)).any(dim=1)[0].any(dim=0)
    assert changed[:20].any()
    assert not changed[20 + method.receptive_radius_px(1.0) :].any()


def test_places_of_a_training_are_those_of_brute_force() -> None:
    """Three quarters are the most uncertain of three times as many, and the rest is uniform."""
    coarse, count = coarse_logits(made_maps(10, batch=2).coarse), 40
    found = draw_places(coarse, count, torch.Generator().manual_seed(3))
    rng = torch.Generator().manual_seed(3)
    drawn, uniform = torch.rand(2, 120, 2, generator=rng), torch.rand(2, 10, 2, generator=rng)
    for n in range(2):
        margins = [slow_margin(slow_at(coarse[n], y * 16, x * 24)) for y, x in drawn[n].tolist()]
        kept = sorted(range(120), key=lambda i: margins[i])[:30]
        assert sorted(found[n, :30].tolist()) == sorted(drawn[n, kept].tolist())
        assert torch.equal(found[n, 30:], uniform[n])


def test_a_place_between_two_pixels_that_disagree_is_uncertain() -> None:
    """The margin is that of the sampled logits: each pixel by itself is certain."""
    coarse = coarse_logits(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2).expand(1, 2, 8, 2))
    found = draw_places(coarse, 100, torch.Generator().manual_seed(0))[0, :75, 1]
    assert ((found - 0.5).abs() < 0.2).all()


def made_loss(seed: int, sets: Tensor, head: nn.Module) -> Tensor:
    method = PointRend(3, {"points": 384**2 / 8}, head)
    return method.loss(made_maps(11, batch=2), sets, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("head", [FeaturesAsLogits(), CoarseAsLogits()])
def test_labels_features_and_coarse_result_of_a_point_are_of_one_place(head: nn.Module) -> None:
    """Where they agree pixel by pixel they give little loss; shifted by two pixels they give more."""
    truth = torch.zeros(1, 16, 24, dtype=torch.int64)
    truth[:, 5:, 9:] = 1
    features = nn.functional.one_hot(truth, 2).movedim(-1, 1).float()
    context = Context(torch.zeros(1, 2, 16, 24), features, 1, (0.0, 0.0))
    maps = PatchMaps(features, 1.0, context=context)
    method = PointRend(2, {"points": 384**2 * 4}, head)
    own, shifted = (
        method.loss(maps, (1 << sets).int(), torch.Generator().manual_seed(0)).item()
        for sets in (truth, truth.roll(2, dims=2))
    )
    assert own < 0.1 < shifted


def square_task(seed: int) -> tuple[PatchMaps, Tensor]:
    """A square whose coarse map is blurred and shifted by six pixels; the features have its true area."""
    rng = torch.Generator().manual_seed(seed)
    side, ratio = 64, 4
    top, left, size = (int(torch.randint(*between, (1,), generator=rng)) for between in ((8, 24), (8, 24), (20, 34)))
    truth = torch.zeros(1, 1, side, side)
    truth[..., top : top + size, left : left + size] = 1
    blurred = nn.functional.avg_pool2d(truth.roll((6, -6), (2, 3)), 9, 1, 4, count_include_pad=False)
    coarse = 0.05 + 0.9 * torch.cat([1 - blurred, blurred], dim=1)
    area = nn.functional.avg_pool2d(truth, ratio)
    features = torch.cat([area, torch.randn(1, 3, 16, 16, generator=rng)], dim=1)
    context = Context(torch.zeros(1, 2, 16, 16), features, ratio, (0.0, 0.0))
    return PatchMaps(coarse, 1.0, context=context), truth[:, 0].long()


def errors(labels: Tensor, truth: Tensor) -> float:
    return (labels != truth).float().mean().item()


@pytest.mark.slow
def test_it_learns_to_mend_a_shifted_square() -> None:
    torch.manual_seed(0)
    head = PointRend.build_head(2, 4)
    method = PointRend(2, {"share": 1 / 4, "points": 384**2 / 8}, head)
    optimizer = torch.optim.Adam(head.parameters(), 1e-3)
    for step in range(60):
        maps, truth = square_task(step)
        loss = method.loss(maps, (1 << truth).int(), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tasks = [square_task(1000 + i) for i in range(5)]
    before = sum(errors(maps.coarse.argmax(dim=1), truth) for maps, truth in tasks) / 5
    after = sum(errors(method.refine(maps).argmax(dim=1), truth) for maps, truth in tasks) / 5
    assert after < before / 3


def test_the_loss_falls_within_a_few_steps() -> None:
    torch.manual_seed(0)
    head = PointRend.build_head(2, 4)
    method, (maps, truth) = PointRend(2, {"points": 384**2 / 16}, head), square_task(0)
    optimizer = torch.optim.Adam(head.parameters(), 1e-3)
    losses = []
    for step in range(10):
        losses.append(method.loss(maps, (1 << truth).int(), torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < losses[0].item() - 0.1
