"""DeepStrip: heads that know the truth move contours exactly, and a head that learns moves them nearer to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from wsi_magnet.methods.deepstrip import COLUMNS_SEEN, DeepStrip, StripNet
from wsi_magnet.methods.method import PatchMaps


class Reader(nn.Module):
    """A head that finds the contour where red is half way, as in pictures of the truth."""

    def forward(self, strip: Tensor) -> Tensor:
        """Scores that are highest where red, 0 in the strip, is half way."""
        return -1e4 * strip[:, 0].abs()


class Stay(nn.Module):
    """A head that leaves every contour where it is."""

    def forward(self, strip: Tensor) -> Tensor:
        """Scores that are highest at the row 0."""
        return -1e4 * strip[:, 4].abs()


def method(head: nn.Module, n_classes: int = 2, **parameters: float) -> DeepStrip:
    return DeepStrip(n_classes, parameters, head)


def fresh(n_classes: int = 2, seed: int = 0) -> DeepStrip:
    torch.manual_seed(seed)
    return method(DeepStrip.build_head(n_classes, 0), n_classes)


def one_hot(labels: np.ndarray, n_classes: int) -> Tensor:
    return torch.tensor(np.eye(n_classes, dtype=np.float32)[labels]).movedim(-1, -3)


def stripes(edges: tuple[int, ...], height: int = 40, width: int = 90) -> np.ndarray:
    """Labels (height, width): class 0, 1, 2, ... from left to right, changing at the edges."""
    return np.broadcast_to(np.searchsorted(edges, np.arange(width), side="right"), (height, width))


def maps_of(coarse: Tensor, rgb: Tensor, margin_px: int = 0) -> PatchMaps:
    return PatchMaps(coarse, 1.0, margin_px, rgb=rgb)


def grey(image: np.ndarray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(image), dtype=torch.float32).expand(1, 3, *image.shape).clone()


def random_maps(seed: int, n: int = 2, n_classes: int = 2, side: int = 64, margin_px: int = 0) -> PatchMaps:
    """Smooth random probabilities, and random colours."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(n, n_classes, side, side)), (0, 0, 6, 6)) * 60
    coarse = torch.tensor(smooth, dtype=torch.float32).softmax(dim=1)
    rgb = torch.tensor(rng.random((n, 3, side, side)), dtype=torch.float32)
    return maps_of(coarse, rgb, margin_px)


def test_the_head_has_as_many_parameters_as_it_states() -> None:
    assert sum(parameter.numel() for parameter in StripNet().parameters()) == 10_161


@pytest.mark.parametrize("shift", [-9, -4, 0, 5, 10])
def test_a_shifted_border_is_recovered_exactly(shift: int) -> None:
    coarse, truth = one_hot(stripes((40,)), 2)[None], stripes((40 + shift,))
    found = method(Reader()).refine(maps_of(coarse, grey(truth)))
    assert torch.equal(found[0], one_hot(truth, 2))


def test_classes_that_touch_each_other_are_all_recovered() -> None:
    coarse, truth = one_hot(stripes((20, 44, 70), width=95), 5)[None], stripes((25, 40, 73), width=95)
    found = method(Reader(), 5).refine(maps_of(coarse, grey(truth % 2)))
    assert torch.equal(found[0], one_hot(truth, 5))


def test_a_shifted_disc_is_recovered_within_a_pixel() -> None:
    y, x = np.mgrid[:80, :80]
    coarse = one_hot((np.hypot(y - 40, x - 40) < 22).astype(int), 2)[None]
    signed = 22 - np.hypot(y - 42.5, x - 43.5)
    found = method(Reader()).refine(maps_of(coarse, grey(np.clip(signed + 0.5, 0, 1))))
    wrong = (found[0].argmax(dim=0).numpy() > 0) != (signed > 0)
    assert np.abs(signed[wrong]).max(initial=0) < 1
    assert wrong.sum() < 30
    assert ((coarse[0].argmax(dim=0).numpy() > 0) != (signed > 0)).sum() > 150


def test_contours_that_stay_leave_the_labels() -> None:
    maps = random_maps(0, 2, 5)
    found = method(Stay(), 5).refine(maps)
    assert (found.argmax(dim=1) != maps.coarse.argmax(dim=1)).float().mean() < 0.02


def test_pixels_beyond_the_bands_keep_the_coarse_result_exactly() -> None:
    maps = random_maps(1, 1, 5, side=96)
    found = method(fresh(5).head or Stay(), 5, half_width_um=4.0).refine(maps)
    kept = (found == maps.coarse).all(dim=1)
    assert 0.2 < kept.float().mean() < 0.9


@pytest.mark.parametrize(("edge", "changed"), [(15, False), (25, True), (48, True), (76, True), (86, False)])
def test_a_cell_that_no_band_touches_need_not_be_read(edge: int, changed: bool) -> None:
    """The cell has the columns 30 to 69; bands are 10 pixels wide on either side."""
    coarse = one_hot(stripes((edge,), 100, 100), 2)[None] * 0.8 + 0.1
    maps = maps_of(coarse, torch.zeros(1, 3, 100, 100), margin_px=30)
    own = fresh()
    assert own.can_change(replace(maps, rgb=None)) == changed
    assert torch.equal(own.refine(maps), coarse[..., 30:-30, 30:-30]) != changed


def test_tiny_components_stay() -> None:
    labels = np.zeros((1, 50, 50), np.int64)
    labels[0, 20, 20] = labels[0, 30:33, 30:33] = 1
    coarse = one_hot(labels, 2)
    assert torch.equal(fresh().refine(maps_of(coarse, torch.rand(1, 3, 50, 50))), coarse)


def test_a_column_depends_on_the_columns_that_the_head_sees() -> None:
    head = StripNet()
    strip = torch.randn(1, 5, 9, 120)
    other = strip.clone()
    other[..., 60] += 1
    moved = (head(strip) - head(other)).abs().amax(dim=(0, 1)) > 0
    assert moved.nonzero().min() >= 60 - COLUMNS_SEEN
    assert moved.nonzero().max() <= 60 + COLUMNS_SEEN


def test_blocks_of_a_strip_are_the_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, own = random_maps(5, 1, 3), fresh(3)
    whole = own.refine(maps)
    monkeypatch.setattr("wsi_magnet.methods.deepstrip.BLOCK", 50)
    torch.testing.assert_close(own.refine(maps), whole, rtol=0, atol=1e-5)


def test_the_radius_grows_as_pixels_shrink() -> None:
    own = fresh()
    assert own.receptive_radius_px(1.0) == 20 + 39 + 2
    assert own.receptive_radius_px(0.25) > own.receptive_radius_px(0.5) > own.receptive_radius_px(1.0)


def task(seed: int, n: int = 2, side: int = 72) -> tuple[PatchMaps, Tensor]:
    """A bright square with noise, and a blurred map of it that is shifted by up to 6 pixels; its label sets."""
    rng = np.random.default_rng(seed)
    truth, coarse = np.zeros((n, side, side), np.int64), np.zeros((n, side, side))
    for i in range(n):
        top, left = rng.integers(14, 24, 2)
        down, right = rng.integers(-6, 7, 2)
        truth[i, top : top + 30, left : left + 32] = 1
        coarse[i, top + down : top + down + 30, left + right : left + right + 32] = 1
    blurred = torch.tensor(gaussian_filter(coarse, (0, 3, 3)), dtype=torch.float32)
    image = 0.35 + 0.3 * truth[:, None] + rng.normal(0, 0.05, (n, 3, side, side))
    maps = maps_of(torch.stack([1 - blurred, blurred], dim=1), torch.tensor(image, dtype=torch.float32))
    return maps, torch.tensor(truth)


def steps(own: DeepStrip, count: int) -> list[float]:
    assert own.head is not None
    optimiser, losses = torch.optim.Adam(own.head.parameters(), 3e-3), []
    for step in range(count):
        maps, truth = task(step)
        loss = own.loss(maps, (1 << truth).int(), torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def iou(probabilities: Tensor, truth: Tensor) -> float:
    inside = probabilities.argmax(dim=1) == 1
    return ((inside & (truth == 1)).sum() / (inside | (truth == 1)).sum()).item()


def test_the_loss_falls_and_every_parameter_has_a_gradient() -> None:
    own = fresh()
    assert own.head is not None
    losses = steps(own, 10)
    assert losses[-1] < 0.9 * losses[0]
    for name, parameter in own.head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
def test_a_short_training_moves_shifted_squares_back() -> None:
    own = fresh()
    steps(own, 60)
    maps, truth = task(10**6, n=8)
    assert iou(maps.coarse, truth) < 0.8
    assert iou(own.refine(maps), truth) > 0.93


def test_unlabelled_pixels_and_patches_without_contours_teach_nothing() -> None:
    maps, truth = task(0)
    own = fresh()
    sets = (1 << truth).int()
    unlabelled = sets.clone()
    unlabelled[:, 20:30] = 3
    one = own.loss(maps, unlabelled, torch.Generator())
    unlabelled[:, 20:30] = (1 << truth[:, 20:30]).int()
    assert own.loss(maps, unlabelled, torch.Generator()) != one
    nothing = method(StripNet(), continuity=0.0)
    assert nothing.loss(maps, torch.full_like(sets, 3), torch.Generator()).item() == 0
    flat = replace(maps, coarse=torch.full_like(maps.coarse, 0.5))
    loss = own.loss(flat, sets, torch.Generator())
    loss.backward()
    assert loss.item() == 0


def test_the_loss_of_a_contour_at_the_truth_is_almost_nothing_and_grows_with_the_distance() -> None:
    coarse = one_hot(stripes((40,)), 2)[None]
    found = [
        method(Stay()).loss(
            maps_of(coarse, grey(stripes((40,)))),
            (1 << torch.tensor(stripes((40 + s,)).copy()))[None].int(),
            torch.Generator(),
        )
        for s in (0, 2, 5, 9)
    ]
    assert found[0] < 0.05
    assert found == sorted(found)
    assert found[3] > 0.4


def test_the_loss_of_a_straight_border_is_what_is_counted_by_hand() -> None:
    """21 rows, 40 columns for each class. Row 0 is half inside, and its nearest pixel belongs to the right class: of
    840 pixels inside 400 + 420 are agreed upon, and as many outside.
    """
    labels = stripes((40,))
    maps = maps_of(one_hot(labels, 2)[None], grey(labels))
    found = method(Stay()).loss(maps, (1 << torch.tensor(labels.copy()))[None].int(), torch.Generator())
    assert found.item() == pytest.approx(1 - (2 * 820 + 1) / (2 * 840 + 1), abs=1e-6)


def test_a_contour_that_jumps_costs_more_than_a_smooth_one() -> None:
    class Jump(nn.Module):
        def forward(self, strip: Tensor) -> Tensor:
            """Scores that are highest at rows 0 and 4 by turns."""
            columns = torch.arange(strip.shape[-1]) % 2 * 0.4
            return -1e4 * (strip[:, 4] - columns).abs()

    maps, truth = task(1)
    sets = (1 << truth).int()
    costs = [method(Jump(), continuity=weight).loss(maps, sets, torch.Generator()).item() for weight in (0.0, 0.1)]
    assert costs[1] - costs[0] == pytest.approx(0.1 * 16, rel=0.1)
