"""CascadePSP: rounds feed back, losses are the paper's, classes are joined, and masks get better."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from tests.methods.shapes import random_maps, windows
from wsi_magnet.errors import BundleError
from wsi_magnet.methods.cascade_psp import (
    MARGIN_PX,
    CascadeNet,
    CascadePSP,
    binary_truth,
    gradient_loss,
    stride_loss,
    uncertain_maps,
)
from wsi_magnet.methods.method import PatchMaps
from wsi_magnet.methods.perturb import iou, perturbed_mask
from wsi_magnet.methods.registry import method_class


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh(n_classes: int = 3, seed: int = 0) -> CascadePSP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CascadePSP(n_classes, None, CascadePSP.build_head(n_classes, 0))


def test_it_is_found_by_its_name() -> None:
    assert method_class("cascadepsp") is CascadePSP


def test_it_needs_a_head() -> None:
    with pytest.raises(BundleError, match="no weights for CascadePSP"):
        CascadePSP(3)


def test_the_head_has_as_many_weights_as_the_docstring_says() -> None:
    assert sum(p.numel() for p in CascadePSP.build_head(7, 256).parameters()) == 402_931


def test_a_head_can_be_made_without_memory_and_loaded() -> None:
    with torch.device("meta"):
        empty = CascadePSP.build_head(3, 0)
    empty.load_state_dict(CascadeNet().state_dict(), assign=True)
    assert torch.isfinite(CascadePSP(3, None, empty).refine(random_maps(0, 3, 16, 16))).all()


@given(st.integers(0, 10**6), st.sampled_from([2, 5]), st.integers(9, 24), st.sampled_from(["noise", "one", "uniform"]))
def test_probabilities_come_out(seed: int, n_classes: int, size: int, kind: str) -> None:
    maps = random_maps(seed, n_classes, size, size + 3)
    coarse = {
        "noise": maps.coarse,
        "one": torch.nn.functional.one_hot(maps.coarse.argmax(dim=1), n_classes).movedim(-1, 1).float(),
        "uniform": torch.full_like(maps.coarse, 1 / n_classes),
    }[kind]
    found = fresh(n_classes).refine(PatchMaps(coarse, 1.0, rgb=maps.rgb))
    assert found.shape == coarse.shape
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, size, size + 3), atol=1e-4, rtol=0)


def test_certainty_stays() -> None:
    coarse = torch.zeros(1, 3, 32, 32)
    coarse[:, 1] = 1
    found = fresh().refine(PatchMaps(coarse, 1.0, rgb=torch.full((1, 3, 32, 32), 0.8)))
    torch.testing.assert_close(found, coarse, atol=1e-6, rtol=0)


def test_only_classes_that_are_certain_everywhere_are_skipped() -> None:
    coarse = torch.tensor([0.05, 0.95, 0.0, 0.5]).view(1, 4, 1, 1).repeat(2, 1, 8, 8)
    coarse[1, 0, 3, 3] = 0.2  # a small region: its mean is below 0.1
    coarse[1, 1, 3, 3] = 0.8
    assert uncertain_maps(coarse).tolist() == [[0, 3], [1, 0], [1, 1], [1, 3]]


def test_refined_maps_are_divided_by_their_sum() -> None:
    method, maps = fresh(), random_maps(5, 3, 24, 24)
    assert isinstance(method.head, CascadeNet)
    assert maps.rgb is not None
    each = [method.head(maps.rgb, maps.coarse[:, c : c + 1])[-1][-1].sigmoid()[:, 0] for c in range(3)]
    expected = torch.stack(each, dim=1) / torch.stack(each, dim=1).sum(dim=1, keepdim=True)
    torch.testing.assert_close(method.refine(maps), expected, atol=1e-4, rtol=0)


def test_a_class_that_is_skipped_keeps_its_share() -> None:
    method, maps = fresh(), random_maps(6, 2, 24, 24)
    assert isinstance(method.head, CascadeNet)
    assert maps.rgb is not None
    coarse = torch.cat([maps.coarse * 0.96, torch.full((1, 1, 24, 24), 0.04)], dim=1)
    found = method.refine(PatchMaps(coarse, 1.0, rgb=maps.rgb))
    sigmoids = [method.head(maps.rgb, coarse[:, c : c + 1])[-1][-1].sigmoid()[:, 0] for c in range(2)]
    torch.testing.assert_close(found[:, 2], 0.04 / (sigmoids[0] + sigmoids[1] + 0.04), atol=1e-4, rtol=0)


def test_a_batch_is_its_samples_and_a_repetition_the_same_bits() -> None:
    method, maps = fresh(), random_maps(1, 3, 36, 44, batch=3)
    assert maps.rgb is not None
    together = method.refine(maps)
    assert torch.equal(together, method.refine(maps))
    for index in range(3):
        one = PatchMaps(maps.coarse[index : index + 1], 1.0, rgb=maps.rgb[index : index + 1])
        assert torch.equal(method.refine(one)[0], together[index])


def test_the_margin_is_cut_off() -> None:
    method, maps = fresh(), random_maps(2, 3, 48, 48)
    cell = method.refine(PatchMaps(maps.coarse, 1.0, 8, maps.rgb))
    assert torch.equal(cell, method.refine(maps)[..., 8:-8, 8:-8])


def test_the_whole_patch_has_influence_whatever_the_margin() -> None:
    method = fresh()
    assert method.receptive_radius_px(0.5) == MARGIN_PX
    maps = random_maps(3, 2, 16, 400)
    assert maps.rgb is not None
    changed = PatchMaps(maps.coarse, 1.0, rgb=maps.rgb.clone())
    assert changed.rgb is not None
    changed.rgb[..., :8] = 0
    assert not torch.equal(method.refine(maps)[..., -8:], method.refine(changed)[..., -8:])


def test_each_round_sees_the_outputs_of_the_last() -> None:
    """By hand, input by input: the mask three times; its place at stride 8; then at 8 and 4."""
    network, maps = CascadeNet(), random_maps(4, 2, 32, 32)
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
    network, maps = CascadeNet(), random_maps(7, 2, 32, 32)
    assert maps.rgb is not None
    coarsest = network(maps.rgb, maps.coarse[:, :1])[0][0][0, 0].detach()
    curved = coarsest.diff(dim=0).diff(dim=0).abs().amax(dim=1) > 1e-5
    assert set(curved.nonzero().flatten().tolist()) <= {2, 3, 10, 11, 18, 19, 26, 27}


def test_an_output_adds_to_the_mask_of_its_stride() -> None:
    """With heads of zeros the outputs are the mask, its means over 8, over 4, and itself."""
    network, maps = CascadeNet(), random_maps(8, 2, 32, 32)
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


def test_windows_without_certain_labels_give_a_finite_loss() -> None:
    method, (maps, sets) = fresh(), windows(range(2), size=32)
    loss = method.loss(maps, torch.full_like(sets, 7), generator())
    loss.backward()
    assert loss.item() == 0


def test_the_loss_is_a_function_of_its_generator() -> None:
    method, (maps, sets) = fresh(), windows(range(2), size=32)
    before = torch.random.get_rng_state()
    losses = [method.loss(maps, sets, generator(seed)).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.random.get_rng_state(), before)


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
