"""Iterative instance segmentation: the same network at every step, local, and better from step to step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.methods.made import maps_of
from tests.methods.shapes import windows
from wsi_magnet.errors import ConfigError
from wsi_magnet.methods.iss import IterativeSegmentation, StepNet, likely_truth
from wsi_magnet.methods.losses import set_loss
from wsi_magnet.methods.method import PatchMaps


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


def test_it_needs_whole_steps() -> None:
    for steps in (0, 1.5):
        with pytest.raises(ConfigError, match="steps of ISS must be a whole number of at least 1"):
            IterativeSegmentation(3, {"steps": steps}, nn.Identity())


def test_the_head_has_as_many_weights_as_the_docstring_says() -> None:
    assert sum(p.numel() for p in StepNet(5).parameters()) == 186_277


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_certainty_on_a_constant_image_stays(grey: float) -> None:
    coarse = torch.zeros(1, 3, 32, 32)
    coarse[:, 1] = 1
    found = fresh().refine(PatchMaps(coarse, 1.0, rgb=torch.full((1, 3, 32, 32), grey)))
    torch.testing.assert_close(found, coarse, atol=0.01, rtol=0)


def test_steps_are_the_same_network_on_its_own_result() -> None:
    method, maps = fresh(gain=10.0), maps_of("noise", 3, seed=3, size_hw=(32, 32))
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
