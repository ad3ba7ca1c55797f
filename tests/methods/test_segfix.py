"""SegFix: its ground truth against distances and directions known by other means, what it moves, and what it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.methods.method import PatchMaps
from wsi_magnet.methods.segfix import (
    DIRECTIONS,
    UNKNOWN,
    BoundaryHead,
    SegFix,
    boundary_truth,
    cross_entropy,
    frequency_weights,
    offsets_yx,
    taken_from,
)

FULL = 0b111


class FeaturesAsLogits(nn.Module):
    """A head whose logits are the features."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 10, H, W) to (N, 2, H, W) and (N, 8, H, W)."""
        return features[:, :2], features[:, 2:]


def perfect_features(sets: Tensor, n_classes: int, boundary_px: float) -> Tensor:
    """Ground truth as features for `FeaturesAsLogits`; direction 0 where it is unknown."""
    boundary, direction = boundary_truth(sets, n_classes, boundary_px)
    pairs = ((boundary, 2), (direction, DIRECTIONS))
    return torch.cat([F.one_hot(maps.clamp(min=0), size).movedim(-1, 1).float() for maps, size in pairs], dim=1)


def disc(side: int = 48, radius: float = 15.0) -> Tensor:
    """Class 1 in class 0, int64 (1, side, side)."""
    at = torch.arange(side) - side / 2 + 0.5
    return (at[:, None] ** 2 + at[None] ** 2 < radius**2).long()[None]


def block(side: int = 48) -> Tensor:
    labels = torch.zeros(1, side, side, dtype=torch.int64)
    labels[:, 12:36, 10:38] = 1
    return labels


def three_stripes(side: int = 48) -> Tensor:
    return (torch.arange(side) // 16).expand(1, side, side)


def slanted(side: int = 48) -> Tensor:
    at = torch.arange(side)
    return (at[:, None] > at[None] + 3).long()[None]


SHAPES = {"disc": disc(), "block": block(), "stripes": three_stripes(), "slanted": slanted()}

by_shape = pytest.mark.parametrize("shape", sorted(SHAPES))


def slow_truth(sets: npt.NDArray[np.int32], n_classes: int, boundary_px: float) -> npt.NDArray[np.int64]:
    """Boundary of each pixel, from its distances to all pixels and to the surroundings of the window."""
    height, width = sets.shape
    singles = {1 << c: c for c in range(n_classes)}
    found = np.full(sets.shape, UNKNOWN)
    for y, x in np.ndindex(height, width):
        if int(sets[y, x]) not in singles:
            continue
        other, doubtful = math.inf, math.inf
        for row in range(-1, height + 1):
            for column in range(-1, width + 1):
                inside = 0 <= row < height and 0 <= column < width
                distance = math.hypot(row - y, column - x)
                if inside and not sets[row, column] & sets[y, x]:
                    other = min(other, distance)
                elif not inside or sets[row, column] != sets[y, x]:
                    doubtful = min(doubtful, distance)
        if other <= boundary_px:
            found[y, x] = 1
        elif doubtful > boundary_px:
            found[y, x] = 0
    return found


@given(st.integers(0, 10**6), st.sampled_from([1.0, 1.5, 3.0]), st.booleans())
def test_the_boundary_is_that_of_brute_force(seed: int, boundary_px: float, ambiguous: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (2, 3)), np.ones((4, 4), np.int64))
    sets = (1 << labels).astype(np.int32)
    if ambiguous:
        mixed = rng.random(sets.shape) < 0.1
        sets[mixed] = rng.integers(1, FULL + 1, mixed.sum())
    boundary, direction = boundary_truth(torch.from_numpy(sets)[None], 3, boundary_px)
    assert np.array_equal(boundary[0].numpy(), slow_truth(sets, 3, boundary_px))
    assert (direction[0].numpy()[np.isin(sets, (1, 2, 4), invert=True)] == UNKNOWN).all()


def angle_between(direction: int, dy: float, dx: float) -> float:
    """Degrees between a direction and a vector."""
    return abs(math.degrees(math.remainder(direction * 2 * math.pi / DIRECTIONS - math.atan2(dy, dx), 2 * math.pi)))


@pytest.mark.parametrize("shape", ["block", "stripes", "slanted"])
def test_directions_lead_away_from_the_nearest_pixel_of_another_class(shape: str) -> None:
    """Within half a step of 45 degrees, and what corners add, of the line from that pixel, or from one of several."""
    labels = SHAPES[shape]
    boundary, direction = boundary_truth((1 << labels).int(), 3, 5.0)
    for y, x in ((boundary == 1) & (direction >= 0))[0].nonzero().tolist():
        others = torch.tensor([y, x]) - (labels[0] != labels[0, y, x]).nonzero()
        length = others.double().norm(dim=1)
        nearest = others[length < length.min() + 0.5].tolist()
        assert min(angle_between(int(direction[0, y, x]), dy, dx) for dy, dx in nearest) < 22.5 + 5


def test_directions_at_a_circle_are_its_radii() -> None:
    """Inward within, outward without; the stairs of its pixels, as the nearest pixel would have them, do not count."""
    labels = disc()
    boundary, direction = boundary_truth((1 << labels).int(), 3, 5.0)
    near = (boundary == 1) & (direction >= 0)
    assert near.sum() > 500
    for y, x in near[0].nonzero().tolist():
        sign = -1 if labels[0, y, x] else 1
        assert angle_between(int(direction[0, y, x]), sign * (y - 23.5), sign * (x - 23.5)) < 22.5 + 3


@by_shape
@pytest.mark.parametrize("step_px", [1.0, 3.0, 5.0])
def test_true_offsets_lead_to_the_interior_of_the_same_class(shape: str, step_px: float) -> None:
    labels = SHAPES[shape]
    boundary, direction = boundary_truth((1 << labels).int(), 3, 5.0)
    known = ((boundary == 1) & (direction >= 0))[0]
    assert known.sum() > 100
    inside = distances(labels[0])
    for y, x in known.nonzero().tolist():
        dy, dx = offsets_yx(step_px)[int(direction[0, y, x])]
        to_y, to_x = min(max(y + dy, 0), 47), min(max(x + dx, 0), 47)
        assert labels[0, to_y, to_x] == labels[0, y, x]
        if inside[y, x] + step_px < 7:  # the middle of the stripes is 8 away from both sides
            assert inside[to_y, to_x] > inside[y, x]


def distances(labels: Tensor) -> Tensor:
    """Distance of each pixel to the nearest one of another class, by brute force."""
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in labels.shape), indexing="ij")
    places, flat = torch.stack([rows.flatten(), columns.flatten()], dim=1).double(), labels.flatten()
    return torch.cdist(places, places).masked_fill(flat[:, None] == flat[None], math.inf).amin(dim=1).view_as(labels)


def test_offsets_have_one_length_in_all_directions() -> None:
    found = offsets_yx(10.0)
    assert found[0] == [0, 10]
    assert found[2] == [10, 0]
    assert found[1] == [7, 7]
    for k, (dy, dx) in enumerate(found):
        assert math.hypot(dy, dx) == pytest.approx(10, abs=0.75)
        assert math.remainder(math.atan2(dy, dx) - k * math.pi / 4, 2 * math.pi) == pytest.approx(0, abs=0.05)


def test_each_pixel_takes_the_value_at_its_offset() -> None:
    maps = torch.randn(2, 3, 6, 7)
    offsets = torch.randint(-4, 5, (2, 6, 7, 2))
    found = taken_from(maps, offsets)
    for n, y, x in np.ndindex(2, 6, 7):
        dy, dx = offsets[n, y, x].tolist()
        assert torch.equal(found[n, :, y, x], maps[n, :, min(max(y + dy, 0), 5), min(max(x + dx, 0), 6)])


@by_shape
def test_perfect_heads_mend_a_blurred_mask(shape: str) -> None:
    """The blurred mask is wrong within 3 pixels of the boundary; 5 pixels further in it is right."""
    labels = SHAPES[shape]
    truth = F.one_hot(labels, 3).movedim(-1, 1).float()
    shifted = F.pad(truth, (1, 0, 2, 0), mode="replicate")[..., :48, :48]
    coarse = F.interpolate(F.avg_pool2d(shifted, 4), scale_factor=4, mode="bilinear")
    features = perfect_features((1 << labels).int(), 3, 5.0)
    method = SegFix(3, {"step_um": 6.0, "boundary_um": 5.0}, FeaturesAsLogits())
    found = method.refine(PatchMaps(coarse, 1.0, margin_px=6, features=features))
    wrong_before = (coarse.argmax(dim=1) != labels)[:, 6:-6, 6:-6].sum()
    wrong_after = (found.argmax(dim=1) != labels[:, 6:-6, 6:-6]).sum()
    assert wrong_before > 25
    assert wrong_after <= wrong_before / 20


def test_away_from_a_predicted_boundary_nothing_moves() -> None:
    coarse = torch.randn(1, 3, 48, 48).softmax(dim=1)
    features = perfect_features((1 << disc()).int(), 3, 3.0)
    found = SegFix(3, {}, FeaturesAsLogits()).refine(PatchMaps(coarse, 1.0, features=features))
    moved = (found != coarse).any(dim=1)
    assert torch.equal(moved, features[:, 1] > 0)


def test_a_length_is_the_same_at_any_resolution() -> None:
    """Maps enlarged twice, at half the microns per pixel, give the enlarged result."""
    coarse = torch.randn(1, 3, 48, 48).softmax(dim=1)
    features = perfect_features((1 << block()).int(), 3, 3.0)
    method = SegFix(3, {"step_um": 4.0}, FeaturesAsLogits())
    small = method.refine(PatchMaps(coarse, 1.0, features=features))
    large = method.refine(PatchMaps(_twice(coarse), 0.5, features=_twice(features)))
    axes = features[:, 2:].argmax(dim=1) % 2 == 0  # the diagonals round differently
    assert torch.equal(large[..., ::2, ::2].movedim(1, -1)[axes], small.movedim(1, -1)[axes])
    assert method.receptive_radius_px(0.5) == method.receptive_radius_px(1.0) + 4


def _twice(maps: Tensor) -> Tensor:
    return maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def test_its_head_fits_any_number_of_classes() -> None:
    weights = [sum(w.numel() for w in SegFix.build_head(c, 256).parameters()) for c in (2, 5)]
    assert weights == [2 * (256 * 256 + 2 * 256) + 257 * (2 + 8)] * 2


def made_head(channels: int, seed: int = 0) -> BoundaryHead:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SegFix.build_head(3, channels)


@pytest.mark.parametrize("stride", [1, 4, 8])
@pytest.mark.parametrize("changed", ["coarse", "features"])
def test_nothing_far_away_counts(stride: int, changed: str) -> None:
    coarse, features = torch.randn(1, 3, 16, 96).softmax(dim=1), torch.randn(1, 6, 16 // stride, 96 // stride)
    method = SegFix(3, {"step_um": 6.0}, made_head(6).eval())
    maps = PatchMaps(coarse, 1.0, features=features)
    other = (
        replace(maps, coarse=_flipped_left(coarse))
        if changed == "coarse"
        else replace(maps, features=_flipped_left(features))
    )
    difference = (method.refine(other) != method.refine(maps)).any(dim=1)[0].any(dim=0)
    assert difference[:48].any()
    assert not difference[48 + method.receptive_radius_px(1.0) :].any()


def _flipped_left(maps: Tensor) -> Tensor:
    columns = maps.shape[-1] // 2
    return torch.cat([maps[..., :columns].flip(1), maps[..., columns:]], dim=-1)


@given(st.integers(0, 10**6))
def test_frequency_weights_are_the_share_of_the_other_class(seed: int) -> None:
    maps = torch.randint(-1, 2, (2, 5, 6), generator=torch.Generator().manual_seed(seed))
    known = [value for value in maps.flatten().tolist() if value >= 0]
    share = sum(known) / len(known)
    assert frequency_weights(maps).tolist() == pytest.approx([share, 1 - share])


def test_the_weighed_cross_entropy_is_the_mean_over_known_pixels() -> None:
    logits, target, weights = torch.randn(2, 2, 4, 5), torch.randint(-1, 2, (2, 4, 5)), torch.tensor([0.2, 0.8])
    p = logits.softmax(dim=1)
    total = weight = 0.0
    for n, y, x in np.ndindex(2, 4, 5):
        if (label := int(target[n, y, x])) >= 0:
            total -= float(weights[label] * p[n, label, y, x].log())
            weight += float(weights[label])
    assert cross_entropy(logits, target, weights).item() == pytest.approx(total / weight, rel=1e-5)
    assert cross_entropy(logits, torch.full_like(target, UNKNOWN), weights).item() == 0


def test_directions_are_learned_where_a_boundary_is_predicted_alone() -> None:
    labels = disc()
    sets, rng = (1 << labels).int(), torch.Generator()
    features = perfect_features(sets, 3, 5.0)
    features[:, 1, :, :24] = -1  # no boundary predicted in the left half
    features.requires_grad_()
    SegFix(3, {}, FeaturesAsLogits()).loss(
        PatchMaps(torch.rand(1, 3, 48, 48), 1.0, features=features), sets, rng
    ).backward()
    assert features.grad is not None
    taught = features.grad[0, 2:].abs().sum(dim=0) > 0
    boundary, direction = boundary_truth(sets, 3, 5.0)
    assert torch.equal(taught[:, 24:], ((boundary == 1) & (direction >= 0))[0, :, 24:])
    assert not taught[:, :24].any()


def fixed_features(rgb: Tensor) -> Tensor:
    """Means of 4 x 4 pixels in a neighbourhood of 5 x 5 of them: features of stride 4 that show the edges."""
    grey = F.avg_pool2d(rgb.mean(dim=1, keepdim=True), 4) - 0.5
    return F.unfold(F.pad(grey, (2, 2, 2, 2), mode="replicate"), 5).view(len(rgb), 25, *grey.shape[-2:])


def square_task(seed: int) -> tuple[PatchMaps, Tensor]:
    """A bright square, whose coarse map is shifted by four pixels; RGB shows the true edge."""
    rng = torch.Generator().manual_seed(seed)
    top, left, size = (int(torch.randint(*between, (1,), generator=rng)) for between in ((16, 32), (16, 32), (44, 56)))
    truth = torch.zeros(1, 1, 96, 96)
    truth[..., top : top + size, left : left + size] = 1
    rgb = (0.2 + 0.6 * truth + 0.05 * torch.randn(1, 3, 96, 96, generator=rng)).clamp(0, 1)
    shifted = truth.roll((4, -4), (2, 3))
    coarse = 0.05 + 0.9 * torch.cat([1 - shifted, shifted], dim=1)
    return PatchMaps(coarse, 1.0, rgb=rgb, features=fixed_features(rgb)), truth[:, 0].long()


def batch_of(seeds: range) -> tuple[PatchMaps, Tensor]:
    """Tasks as one batch: maps and label sets."""
    tasks = [square_task(seed) for seed in seeds]
    features = torch.cat([one.features for one, _ in tasks if one.features is not None])
    maps = PatchMaps(torch.cat([one.coarse for one, _ in tasks]), 1.0, features=features)
    return maps, torch.cat([(1 << truth).int() for _, truth in tasks])


def trained(steps: int) -> tuple[SegFix, list[float]]:
    head = made_head(25, 1)
    method = SegFix(2, {"boundary_um": 6.0, "step_um": 7.0}, head)
    optimizer, losses = torch.optim.Adam(head.parameters(), 3e-3), []
    for step in range(steps):
        maps, sets = batch_of(range(2 * step, 2 * step + 2))
        loss = method.loss(maps, sets, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return method, losses


def test_the_loss_falls_within_a_few_steps_and_teaches_every_weight() -> None:
    method, losses = trained(8)
    assert losses[-1] < 0.7 * losses[0]
    assert isinstance(method.head, nn.Module)
    for name, weight in method.head.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.slow
def test_it_learns_to_mend_a_shifted_square() -> None:
    method, _ = trained(60)
    assert method.head is not None
    method.head.eval()
    before = after = 0.0
    for maps, truth in (square_task(1000 + i) for i in range(5)):
        before += (maps.coarse.argmax(dim=1) != truth).float().mean().item()
        after += (method.refine(maps).argmax(dim=1) != truth).float().mean().item()
    assert after < before / 2


def test_running_statistics_are_those_of_the_windows() -> None:
    """After some windows the head says at run time what it says in training, and running it changes nothing."""
    head, (maps, sets) = made_head(25, 2), batch_of(range(2))
    method = SegFix(2, {}, head)
    assert maps.features is not None
    for _ in range(120):
        head(maps.features)
    learning = [logits.detach() for logits in head(maps.features)]
    loss = method.loss(maps, sets, torch.Generator()).item()
    head.eval()
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    method.refine(maps)
    for one, other in zip(learning, head(maps.features), strict=True):
        assert torch.allclose(one, other, atol=1e-3)
    assert method.loss(maps, sets, torch.Generator()).item() == pytest.approx(loss, rel=1e-3)
    assert all(torch.equal(tensor, state[name]) for name, tensor in head.state_dict().items())


def test_a_constant_image_breaks_neither_loss_nor_result() -> None:
    head = made_head(6)
    method = SegFix(3, {}, head)
    maps = PatchMaps(torch.rand(1, 3, 24, 24).softmax(dim=1), 1.0, features=torch.full((1, 6, 6, 6), 2.0))
    loss = method.loss(maps, torch.ones(1, 24, 24, dtype=torch.int32), torch.Generator())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in head.parameters())
    head.eval()
    assert torch.isfinite(method.refine(maps)).all()
