"""CascadePSP: rounds feed back, losses are the paper's, classes are joined, and masks get better."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from tests.methods.made import maps_of
from tests.methods.shapes import windows
from wsi_magnet.methods.cascade_psp import (
    CascadeNet,
    CascadePSP,
    binary_truth,
    gradient_loss,
    stride_loss,
    uncertain_maps,
)
from wsi_magnet.methods.method import PatchMaps
from wsi_magnet.methods.perturb import iou, perturbed_mask


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh(n_classes: int = 3, seed: int = 0) -> CascadePSP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CascadePSP(n_classes, None, CascadePSP.build_head(n_classes, 0))


def test_the_head_has_as_many_weights_as_the_docstring_says() -> None:
    assert sum(p.numel() for p in CascadePSP.build_head(7, 256).parameters()) == 402_931


def test_only_classes_that_are_certain_everywhere_are_skipped() -> None:
    coarse = torch.tensor([0.05, 0.95, 0.0, 0.5]).view(1, 4, 1, 1).repeat(2, 1, 8, 8)
    coarse[1, 0, 3, 3] = 0.2  # a small region: its mean is below 0.1
    coarse[1, 1, 3, 3] = 0.8
    assert uncertain_maps(coarse).tolist() == [[0, 3], [1, 0], [1, 1], [1, 3]]


def test_refined_maps_are_divided_by_their_sum() -> None:
    method, maps = fresh(), maps_of("noise", 3, seed=5, size_hw=(24, 24))
    assert isinstance(method.head, CascadeNet)
    assert maps.rgb is not None
    each = [method.head(maps.rgb, maps.coarse[:, c : c + 1])[-1][-1].sigmoid()[:, 0] for c in range(3)]
    expected = torch.stack(each, dim=1) / torch.stack(each, dim=1).sum(dim=1, keepdim=True)
    torch.testing.assert_close(method.refine(maps), expected, atol=1e-4, rtol=0)


def test_a_class_that_is_skipped_keeps_its_share() -> None:
    method, maps = fresh(), maps_of("noise", 2, seed=6, size_hw=(24, 24))
    assert isinstance(method.head, CascadeNet)
    assert maps.rgb is not None
    coarse = torch.cat([maps.coarse * 0.96, torch.full((1, 1, 24, 24), 0.04)], dim=1)
    found = method.refine(PatchMaps(coarse, 1.0, rgb=maps.rgb))
    sigmoids = [method.head(maps.rgb, coarse[:, c : c + 1])[-1][-1].sigmoid()[:, 0] for c in range(2)]
    torch.testing.assert_close(found[:, 2], 0.04 / (sigmoids[0] + sigmoids[1] + 0.04), atol=1e-4, rtol=0)


def test_each_round_sees_the_outputs_of_the_last() -> None:
    """By hand, input by input: the mask three times; its place at stride 8; then at 8 and 4."""
    network, maps = CascadeNet(), maps_of("noise", 2, seed=4, size_hw=(32, 32))
    assert maps.rgb is not None
    mask = maps.coarse[:, :1]
    rounds = network(maps.rgb, mask)
    assert [len(outputs) for outputs in rounds] == [1, 2, 3]
    three = [mask, mask, mask]
    for count, outputs in enumerate(rounds, start=1):
        expected = network.outputs(maps.rgb, three, 3)[:count]
        for found, wanted in zip(outputs, expected, strict=True):
            assert found.shape == (1, 1, 32, 32)
            assert torch.equal(found, wanted)
        three = [*(logits.sigmoid() for logits in outputs), *three[count:]]


def test_the_coarsest_output_has_its_stride() -> None:
    """A map of stride 8, upsampled bilinearly, is linear between the centres of its pixels."""
    network, maps = CascadeNet(), maps_of("noise", 2, seed=7, size_hw=(32, 32))
    assert maps.rgb is not None
    coarsest = network(maps.rgb, maps.coarse[:, :1])[0][0][0, 0].detach()
    curved = coarsest.diff(dim=0).diff(dim=0).abs().amax(dim=1) > 1e-5
    assert set(curved.nonzero().flatten().tolist()) <= {2, 3, 10, 11, 18, 19, 26, 27}


def test_an_output_adds_to_the_mask_of_its_stride() -> None:
    """With heads of zeros the outputs are the mask, its means over 8, over 4, and itself."""
    network, maps = CascadeNet(), maps_of("noise", 2, seed=8, size_hw=(32, 32))
    assert maps.rgb is not None
    for parameter in network.heads.parameters():
        torch.nn.init.zeros_(parameter)
    mask = maps.coarse[:, :1].clamp(0.1, 0.9)
    for logits, stride in zip(network.outputs(maps.rgb, [mask] * 3, 3), (8, 4, 1), strict=True):
        means = torch.nn.functional.avg_pool2d(mask, stride).logit()
        expected = torch.nn.functional.interpolate(means, (32, 32), mode="bilinear")
        torch.testing.assert_close(logits, expected)


def made(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, truth and known pixels of two windows."""
    rng = generator(seed)
    logits = 3 * torch.randn(2, 12, 15, generator=rng)
    return logits, (torch.rand(2, 12, 15, generator=rng) > 0.5).float(), torch.rand(2, 12, 15, generator=rng) > 0.05


def slow_magnitude(maps: np.ndarray) -> np.ndarray:
    smooth = ndimage.uniform_filter(maps, 3, mode="nearest")
    both = [ndimage.sobel(smooth, axis, mode="nearest") / 4 for axis in (0, 1)]
    return np.asarray(np.hypot(*both))


def slow_gradient_loss(p: np.ndarray, truth: np.ndarray, known: np.ndarray) -> float:
    found = []
    for n in range(len(p)):
        away = np.abs(slow_magnitude(p[n]) - slow_magnitude(truth[n]))
        clear = ndimage.minimum_filter(known[n], 5, mode="constant", cval=True)
        found.extend(away[clear])
    return float(np.mean(found))


@given(st.integers(0, 10**6))
def test_the_losses_are_the_papers(seed: int) -> None:
    logits, truth, known = made(seed)
    p, y, k = logits.sigmoid().double().numpy(), truth.double().numpy(), known.numpy()
    entropy = np.mean(-(y * np.log(p) + (1 - y) * np.log(1 - p))[k])
    distance = np.mean(np.abs(p - y)[k]) + np.mean(((p - y) ** 2)[k])
    gradient = slow_gradient_loss(p, y, k)
    found = [stride_loss(logits, truth, known, stride).item() for stride in (8, 4, 1)]
    assert found[:2] == pytest.approx([entropy, (entropy + distance) / 2], rel=1e-4)
    assert found[2] == pytest.approx(distance + 5 * gradient, rel=0.01, abs=0.005)
    assert gradient_loss(logits.sigmoid(), truth, known).item() == pytest.approx(gradient, rel=0.01, abs=0.001)


@pytest.mark.parametrize("stride", [8, 4, 1])
def test_what_is_not_known_teaches_nothing(stride: int) -> None:
    logits, truth, known = made(1)
    logits.requires_grad_()
    known[:, :, 9:] = False
    stride_loss(logits, truth, known, stride).backward()
    assert logits.grad is not None
    assert (logits.grad[..., 9:] == 0).all()
    assert logits.grad.abs().sum() > 0
    assert stride_loss(logits, truth, torch.zeros_like(known), stride).item() == 0


def test_the_truth_is_one_class_where_the_labels_decide_it() -> None:
    coarse = torch.zeros(1, 3, 1, 6)
    coarse[:, 1, :, :3] = 1
    coarse[:, 2, :, 3:] = 1
    sets = torch.tensor([[[2, 2, 6, 6, 1, 5]]], dtype=torch.int32)  # classes 1, 1, 1 or 2, 1 or 2, 0, 0 or 2
    found = {}
    for seed in range(20):
        mask, known = binary_truth(coarse, sets, generator(seed))
        found[str(mask[0, 0].int().tolist())] = known[0, 0].int().tolist()
    assert found == {
        "[1, 1, 1, 0, 0, 0]": [1, 1, 0, 0, 1, 1],  # class 1, open where 2 is possible too
        "[0, 0, 0, 0, 1, 0]": [1, 1, 1, 1, 1, 0],  # class 0; class 2 is nowhere certain, and never drawn
    }


def train(method: CascadePSP, steps: int, size: int, rate: float) -> list[float]:
    """Losses of a short training on windows of shapes."""
    assert method.head is not None
    adam, rng, losses = torch.optim.Adam(method.head.parameters(), rate), generator(), []
    for step in range(steps):
        maps, sets = windows(range(4 * step, 4 * step + 4), size=size)
        loss = method.loss(maps, sets, rng)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


def test_gradients_reach_every_weight_and_the_loss_falls() -> None:
    method = fresh()
    assert method.head is not None
    losses = train(method, 8, 32, 2e-3)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.head.parameters())


def mean_iou(masks: list[Tensor], truth: list[Tensor]) -> float:
    """Mean over the windows and the classes. masks, truth: bool (N, H, W), one a class."""
    pairs = [pair for each in zip(masks, truth, strict=True) for pair in zip(*each, strict=True)]
    return float(np.mean([iou(mask, true) for mask, true in pairs]))


@pytest.mark.slow
def test_a_short_training_mends_masks() -> None:
    method = fresh()
    train(method, 100, 64, 3e-3)
    maps, sets = windows(range(10_000, 10_012))
    assert maps.rgb is not None
    truth = [sets == 1 << label for label in range(3)]
    masks = [torch.stack([perturbed_mask(m, 0.8, generator(i)) for i, m in enumerate(each)]) for each in truth]
    with torch.inference_mode():
        mended = [method._refined(maps.rgb, each.float()) > 0.5 for each in masks]
        whole = method.refine(maps).argmax(dim=1)
    before, after = (mean_iou(each, truth) for each in (masks, mended))
    assert after > before + 0.02
    errors = [float((labels != sets.log2()).float().mean()) for labels in (maps.coarse.argmax(dim=1), whole)]
    assert errors[1] < 0.6 * errors[0]  # a coarser result that is shifted, all classes together
