"""Iterative instance segmentation: the same network at every step, local, and better from step to step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.methods.shapes import random_maps, windows
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.methods.iss import IterativeSegmentation, StepNet, likely_truth
from wsi_magnet.methods.losses import set_loss
from wsi_magnet.methods.method import PatchMaps
from wsi_magnet.methods.registry import method_class


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh(n_classes: int = 3, steps: int = 3, seed: int = 0, gain: float = 1.0) -> IterativeSegmentation:
    """A method with fresh weights; gain: of the last layer, so that a fresh head changes something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = IterativeSegmentation.build_head(n_classes, 0)
    with torch.no_grad():
        head.classify.weight.mul_(gain)  # type: ignore[operator, union-attr]
    return IterativeSegmentation(n_classes, {"steps": steps}, head)


def test_it_is_found_by_its_name() -> None:
    assert method_class("iss") is IterativeSegmentation


def test_it_needs_a_head_and_whole_steps() -> None:
    with pytest.raises(BundleError, match="no weights for ISS"):
        IterativeSegmentation(3)
    for steps in (0, 1.5):
        with pytest.raises(ConfigError, match="steps of ISS must be a whole number of at least 1"):
            IterativeSegmentation(3, {"steps": steps}, nn.Identity())


def test_the_head_has_as_many_weights_as_the_docstring_says() -> None:
    assert sum(p.numel() for p in StepNet(5).parameters()) == 186_277


def test_a_head_can_be_made_without_memory_and_loaded() -> None:
    with torch.device("meta"):
        empty = IterativeSegmentation.build_head(3, 0)
    state = StepNet(3).state_dict()
    empty.load_state_dict(state, assign=True)
    maps = random_maps(0, 3, 16, 16)
    assert torch.isfinite(IterativeSegmentation(3, None, empty).refine(maps)).all()


@given(st.integers(0, 10**6), st.sampled_from([2, 5]), st.integers(5, 24), st.sampled_from(["noise", "one", "uniform"]))
def test_probabilities_come_out(seed: int, n_classes: int, size: int, kind: str) -> None:
    maps = random_maps(seed, n_classes, size, size + 3)
    coarse = {
        "noise": maps.coarse,
        "one": torch.nn.functional.one_hot(maps.coarse.argmax(dim=1), n_classes).movedim(-1, 1).float(),
        "uniform": torch.full_like(maps.coarse, 1 / n_classes),
    }[kind]
    found = fresh(n_classes, gain=20.0).refine(PatchMaps(coarse, 1.0, rgb=maps.rgb))
    assert found.shape == coarse.shape
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, size, size + 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_certainty_on_a_constant_image_stays(grey: float) -> None:
    coarse = torch.zeros(1, 3, 32, 32)
    coarse[:, 1] = 1
    found = fresh().refine(PatchMaps(coarse, 1.0, rgb=torch.full((1, 3, 32, 32), grey)))
    torch.testing.assert_close(found, coarse, atol=0.01, rtol=0)


def test_a_batch_is_its_samples_and_a_repetition_the_same_bits() -> None:
    method, maps = fresh(gain=10.0), random_maps(1, 3, 36, 44, batch=3)
    assert maps.rgb is not None
    together = method.refine(maps)
    assert torch.equal(together, method.refine(maps))
    for index in range(3):
        one = PatchMaps(maps.coarse[index : index + 1], 1.0, rgb=maps.rgb[index : index + 1])
        assert torch.equal(method.refine(one)[0], together[index])


def test_the_margin_is_cut_off() -> None:
    method, maps = fresh(gain=10.0), random_maps(2, 3, 48, 48)
    cell = method.refine(PatchMaps(maps.coarse, 1.0, 8, maps.rgb))
    assert torch.equal(cell, method.refine(maps)[..., 8:-8, 8:-8])


def test_steps_are_the_same_network_on_its_own_result() -> None:
    method, maps = fresh(gain=10.0), random_maps(3, 3, 32, 32)
    assert maps.rgb is not None
    steps = method.logits(maps.rgb, maps.coarse)
    once = fresh(steps=1, gain=10.0)
    now = maps.coarse
    for logits in steps:
        now = once.refine(PatchMaps(now, 1.0, rgb=maps.rgb))
        torch.testing.assert_close(now, logits.softmax(dim=1), atol=1e-4, rtol=1e-3)
    assert (steps[0].softmax(dim=1) - now).abs().max() > 0.01


def influence(network: nn.Module, steps: int, place: int, shape_hw: tuple[int, int]) -> int:
    """Distance of the farthest pixel that influences the pixel at `place` of the long axis, along it."""
    rgb = torch.full((1, 3, *shape_hw), 0.7, dtype=torch.float64, requires_grad=True)
    maps = start = torch.full((1, 2, *shape_hw), 0.7, dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        maps = network(rgb, maps)
    axis = int(shape_hw[0] < shape_hw[1])
    maps[0, 0].select(axis, place)[4].backward()
    assert rgb.grad is not None
    assert start.grad is not None
    found = (rgb.grad.abs().sum(dim=1) + start.grad.abs().sum(dim=1))[0].sum(dim=1 - axis).nonzero()
    return int((found - place).abs().max())


def positive(n_classes: int = 2) -> StepNet:
    """A network in which nothing cancels and no unit is off: its influence is its receptive field."""
    network = StepNet(n_classes).double()
    for name, parameter in network.named_parameters():
        fan = parameter[0].numel()
        nn.init.constant_(parameter, 1 / fan if name.endswith("weight") else 0.1)
    return network


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_receptive_radius_is_exact(steps: int) -> None:
    expected, network = fresh(steps=steps).receptive_radius_px(0.5), positive()
    middle = 4 * (expected // 4 + 2)
    for shape_hw in ((2 * middle, 8), (8, 2 * middle)):
        found = max(influence(network, steps, place, shape_hw) for place in range(middle, middle + 4))
        assert found == expected


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_farther_pixels_have_no_influence(steps: int) -> None:
    method = fresh(steps=steps, gain=10.0)
    radius = method.receptive_radius_px(0.5)
    assert radius == 28 * steps + 1
    maps = random_maps(4, 3, 16, 2 * radius + 40)
    assert maps.rgb is not None
    place = radius + 17
    changed = PatchMaps(maps.coarse.clone(), 1.0, rgb=maps.rgb.clone())
    assert changed.rgb is not None
    changed.rgb[..., place] = 1 - changed.rgb[..., place]
    changed.coarse[..., place] = changed.coarse[..., place].roll(1, dims=1)
    differs = (method.refine(maps) != method.refine(changed)).any(dim=2).any(dim=1)[0].nonzero()
    assert len(differs) > 0
    assert int((differs - place).abs().max()) <= radius


def test_likely_truth_agrees_with_the_labels() -> None:
    maps, _ = windows(range(2))
    sets = torch.randint(1, 8, (2, 64, 64), generator=generator(), dtype=torch.int32)
    truth = likely_truth(maps.coarse, sets)
    torch.testing.assert_close(truth.sum(dim=1), torch.ones(2, 64, 64))
    for label in range(3):
        assert (truth[:, label][sets == 1 << label] == 1).all()
        assert (truth[:, label][(sets >> label & 1) == 0] == 0).all()
    torch.testing.assert_close(
        truth.movedim(1, -1)[sets == 7], maps.coarse.movedim(1, -1)[sets == 7], atol=1e-3, rtol=0
    )


def test_the_loss_is_a_function_of_its_generator() -> None:
    method, (maps, sets) = fresh(), windows(range(4), size=32)
    before = torch.random.get_rng_state()
    losses = [method.loss(maps, sets, generator(seed)).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_labelled_is_no_loss() -> None:
    method, (maps, sets) = fresh(), windows(range(2), size=32)
    loss = method.loss(maps, torch.full_like(sets, 7), generator())
    loss.backward()
    assert loss.item() == 0


def train(method: IterativeSegmentation, steps: int, size: int, rate: float) -> list[float]:
    """Losses of a short training on windows of shapes."""
    assert method.head is not None
    adam, rng, losses = torch.optim.Adam(method.head.parameters(), rate), generator(), []
    for step in range(steps):
        maps, sets = windows(range(2 * step, 2 * step + 2), size=size)
        loss = method.loss(maps, sets, rng)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


def test_gradients_reach_every_weight_and_the_loss_falls() -> None:
    method = fresh()
    assert method.head is not None
    losses = train(method, 12, 32, 3e-3)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.head.parameters())


def held_out(method: IterativeSegmentation) -> tuple[list[Tensor], Tensor, Tensor]:
    """Logits of each step, the coarser result and the truth of windows that no training has."""
    maps, sets = windows(range(10_000, 10_012))
    assert maps.rgb is not None
    with torch.inference_mode():
        return method.logits(maps.rgb, maps.coarse), maps.coarse, sets


@pytest.mark.slow
def test_a_short_training_makes_each_step_better_than_the_last() -> None:
    method = fresh()
    train(method, 60, 64, 3e-3)
    steps, coarse, sets = held_out(method)
    losses = [set_loss(logits, sets).item() for logits in (coarse.clamp(min=1e-4).log(), *steps)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    errors = [float((maps.argmax(dim=1) != sets.log2()).float().mean()) for maps in (coarse, *steps)]
    assert errors[-1] < errors[1] < errors[0]
    assert errors[-1] < 0.5 * errors[0]
