"""The pool against Bayes' rule; the gate: what it sees and how far, and that it learns which of two maps is right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.made import small_spec
from wsi_magnet.errors import BundleError
from wsi_magnet.methods.losses import choice_loss, set_loss
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.fold import fold_batch_norm
from wsi_magnet.nets.gate import LEAST_POOLED, GateModule, PoolModule, less_local_mean
from wsi_magnet.nets.registry import GATES, build_network, build_refiner

KINDS = pytest.mark.parametrize("uses_rgb", [False, True])


def built(n_classes: int = 3, *, uses_rgb: bool) -> GateModule:
    """Of random weights, every one of which matters."""
    torch.manual_seed(0)
    module = GateModule(n_classes, uses_rgb=uses_rgb)
    nn.init.normal_(module.residual.weight, 0, 0.3)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.6, 1)
            nn.init.uniform_(layer.bias, 0.2, 0.5)
    return module.eval()


def inputs(side: int, n: int = 1, n_classes: int = 3, *, uses_rgb: bool) -> dict[str, Tensor]:
    fine, coarse = torch.randn(2, n, n_classes, side, side).mul(2).softmax(dim=2)
    rgb = {"rgb": torch.rand(n, 3, side, side)} if uses_rgb else {}
    return {"fine": fine, "coarse": coarse, **rgb}


@pytest.mark.parametrize(("name", "radius"), [("fine", 15), ("coarse", 15), ("rgb", 20)])
@torch.inference_mode()
def test_the_receptive_radius_is_exact(name: str, radius: int) -> None:
    module, maps = built(uses_rgb=True), inputs(61, uses_rgb=True)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):  # where all weights are positive no influence is cancelled
            nn.init.uniform_(layer.weight, 0, 2 / layer.weight[0].numel())
    changed = maps[name].clone()
    changed[..., 30, 30] = torch.tensor([0.98, 0.01, 0.01])
    before, after = (module.with_choice(**one)[1][0, 0] for one in (maps, {**maps, name: changed}))
    rows, columns = ((after - before).abs() > 0).nonzero(as_tuple=True)
    found = [int(edge) for edge in (rows.min(), rows.max(), columns.min(), columns.max())]
    assert found == [30 - radius, 30 + radius] * 2
    assert (GateModule(3).receptive_radius_px, module.receptive_radius_px) == (15, 20)


@KINDS
@torch.inference_mode()
def test_beyond_the_receptive_radius_nothing_changes(uses_rgb: bool) -> None:
    module, maps = built(uses_rgb=uses_rgb), inputs(61, uses_rgb=uses_rgb)
    other = inputs(61, uses_rgb=uses_rgb)
    changed = {name: one.clone() for name, one in maps.items()}
    for name, one in changed.items():
        one[..., 30, 30] = other[name][..., 30, 30]
    radius = module.receptive_radius_px
    near = torch.zeros(61, 61, dtype=torch.bool)
    near[30 - radius : 31 + radius, 30 - radius : 31 + radius] = True
    differs = (module(**changed) - module(**maps)).abs().amax(dim=1)[0] > 1e-6
    assert differs.any()
    assert not differs[~near].any()


@KINDS
@torch.inference_mode()
def test_r_is_a_probability_between_the_two(uses_rgb: bool) -> None:
    fresh = GateModule(4, uses_rgb=uses_rgb).eval()
    maps = inputs(40, n=2, n_classes=4, uses_rgb=uses_rgb)
    maps["fine"][0, :, :20] = torch.tensor([1.0, 0, 0, 0]).view(4, 1, 1)
    maps["coarse"][0, :, :20] = torch.tensor([0, 0, 0, 1.0]).view(4, 1, 1)
    logits, choice = fresh.with_choice(**maps)
    refined, g = logits.softmax(dim=1), choice.sigmoid()
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(refined.sum(dim=1), torch.ones(2, 40, 40))
    expected = (1 - g) * maps["coarse"] + g * maps["fine"]
    torch.testing.assert_close(refined, expected, rtol=0, atol=1e-5)


@KINDS
@torch.inference_mode()
def test_where_both_agree_a_fresh_one_returns_them(uses_rgb: bool) -> None:
    maps = inputs(20, uses_rgb=uses_rgb)
    maps["coarse"] = maps["fine"]
    refined = GateModule(3, uses_rgb=uses_rgb).eval()(**maps).softmax(dim=1)
    torch.testing.assert_close(refined, maps["fine"], rtol=0, atol=1e-5)


@KINDS
@torch.inference_mode()
def test_one_of_a_batch_is_as_it_would_be_alone(uses_rgb: bool) -> None:
    module, maps = built(uses_rgb=uses_rgb), inputs(24, n=3, uses_rgb=uses_rgb)
    together = module(**maps)
    alone = [module(**{name: one[i : i + 1] for name, one in maps.items()}) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@KINDS
@torch.inference_mode()
def test_a_folded_one_computes_the_same(uses_rgb: bool) -> None:
    module, maps = built(uses_rgb=uses_rgb), inputs(24, n=2, uses_rgb=uses_rgb)
    folded = fold_batch_norm(module)
    torch.testing.assert_close(folded(**maps), module(**maps), rtol=1e-4, atol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]


@torch.inference_mode()
def test_logits_are_divided_by_a_temperature() -> None:
    module, maps = built(uses_rgb=False), inputs(16, uses_rgb=False)
    before = module(**maps)
    module.divide_logits(1.25)
    module.divide_logits(2.0)
    torch.testing.assert_close(module(**maps), before / 2.5)


def test_a_stain_and_the_light_are_not_seen() -> None:
    rgb = torch.rand(1, 3, 20, 20)
    torch.testing.assert_close(less_local_mean(rgb + 0.1), less_local_mean(rgb))
    torch.testing.assert_close(less_local_mean(torch.full((1, 3, 9, 9), 0.3)), torch.zeros(1, 3, 9, 9))


@pytest.mark.parametrize("refiner", GATES)
@torch.inference_mode()
def test_into_a_bundle_and_out_again(refiner: str, tmp_path: Path) -> None:
    spec = small_spec(refiner=refiner)
    uses_rgb = refiner == "gate+rgb"
    modules = [built(uses_rgb=uses_rgb), build_refiner(refiner, 3).eval()]
    modules[0].divide_logits(1.5)  # type: ignore[operator]
    save_bundle(tmp_path / "b.safetensors", spec, build_network("small", 3, width=2), modules)
    found = load_bundle(tmp_path / "b.safetensors")
    maps = inputs(24, uses_rgb=uses_rgb)
    assert found.spec.refiner == refiner
    for loaded, module in zip(found.refiners, modules, strict=True):
        assert isinstance(loaded, GateModule)
        assert (loaded.uses_rgb, loaded.receptive_radius_px) == (uses_rgb, 20 if uses_rgb else 15)
        assert torch.equal(loaded(**maps), module(**maps))


@pytest.mark.parametrize("refiner", ["pool", *GATES])
def test_weighing_modules_have_one_order_of_their_maps(refiner: str) -> None:
    with pytest.raises(BundleError, match="one order"):
        build_refiner(refiner, 3, "coarse_first")


# ---- the pool ------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_fresh_pool_is_bayes_rule_for_independent_observations() -> None:
    """Two observations of four values each of a class of three; the posterior is summed from their joint table."""
    torch.manual_seed(3)
    one, other = torch.rand(2, 3, 4, dtype=torch.float64).add(0.1).unbind()
    one, other = one / one.sum(dim=1, keepdim=True), other / other.sum(dim=1, keepdim=True)  # p(observation | class)
    joint = one[:, :, None] * other[:, None, :]
    expected = joint / joint.sum(dim=0)
    fine = (one / one.sum(dim=0))[:, :, None].expand(3, 4, 4)
    coarse = (other / other.sum(dim=0))[:, None, :].expand(3, 4, 4)
    found = PoolModule()(fine=fine[None].float(), coarse=coarse[None].float()).softmax(dim=1)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_a_pool_weighs_its_maps() -> None:
    maps = {name: one.clamp_min(0.001) for name, one in inputs(12, n=2, uses_rgb=False).items()}
    maps = {name: one / one.sum(dim=1, keepdim=True) for name, one in maps.items()}
    module = PoolModule()
    module.weights.copy_(torch.tensor([0.4, 1.7]))
    module.divide_logits(1.5)
    p = maps["fine"].double() ** (0.4 / 1.5) * maps["coarse"].double() ** (1.7 / 1.5)
    found = module(**maps).softmax(dim=1)
    torch.testing.assert_close(found.double(), p / p.sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)
    module.weights.copy_(torch.tensor([1.5, -2.0]))
    torch.testing.assert_close(module(**maps).softmax(dim=1), maps["fine"], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_one_scale_alone_rules_no_class_out_of_a_pool() -> None:
    fine, coarse = (torch.tensor(p).view(1, 3, 1, 1) for p in ([1.0, 0.0, 0.0], [LEAST_POOLED / 10, 0.9999, 0.0]))
    found = PoolModule()(fine=fine, coarse=coarse).softmax(dim=1).flatten()
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:2], torch.tensor([0.5, 0.5]), rtol=0, atol=1e-3)


def test_a_pool_learns_which_map_is_the_better_one() -> None:
    torch.manual_seed(2)
    module = PoolModule()
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(40):
        truth = torch.randint(2, (1, 32, 32))
        fine, coarse = (torch.where(torch.rand(1, 32, 32) < right, truth, 1 - truth) for right in (0.9, 0.5))
        maps = {
            name: F.one_hot(label, 2).permute(0, 3, 1, 2) * 0.8 + 0.1
            for name, label in (("fine", fine), ("coarse", coarse))
        }
        optimizer.zero_grad()
        set_loss(module(**maps), (1 << truth).int()).backward()
        optimizer.step()
    of_fine, of_coarse = module.weights.tolist()
    assert of_fine == pytest.approx(1, abs=0.15)
    assert of_coarse < 0.2


@torch.inference_mode()
def test_a_pool_into_a_bundle_and_out_again(tmp_path: Path) -> None:
    modules = [build_refiner("pool", 3), build_refiner("pool", 3)]
    for i, module in enumerate(modules):
        assert isinstance(module, PoolModule)
        module.weights.copy_(torch.tensor([0.5 + i, 1.2]))
        module.divide_logits(1.3)
    save_bundle(tmp_path / "b.safetensors", small_spec(refiner="pool"), build_network("small", 3, width=2), modules)
    maps = inputs(16, uses_rgb=False)
    for loaded, module in zip(load_bundle(tmp_path / "b.safetensors").refiners, modules, strict=True):
        assert torch.equal(loaded(**maps), module(**maps))


# ---- two halves, of which one is right ---------------------------------------------------------------------------

SIDE, BLOCK = 32, 8


def blocks(n: int) -> Tensor:
    """0 or 1 in squares, int64 (n, SIDE, SIDE)."""
    drawn = torch.randint(2, (n, 1, SIDE // BLOCK, SIDE // BLOCK)).float()
    return F.interpolate(drawn, size=(SIDE, SIDE))[:, 0].long()


def halves(told_by: str, n: int = 2) -> tuple[dict[str, Tensor], Tensor]:
    """Maps of which one is right in each square, the other drawn at random, and the truth, int64 (n, SIDE, SIDE).

    told_by: "rgb": texture stands where the finer one is right; "uncertainty": the one that is wrong is less certain.
    """
    truth, fine_right = blocks(n), blocks(n) == 1
    sure = torch.full((n, SIDE, SIDE), 0.85)
    labels = {"fine": torch.where(fine_right, truth, blocks(n)), "coarse": torch.where(fine_right, blocks(n), truth)}
    maps = {}
    for name, label in labels.items():
        right = fine_right if name == "fine" else ~fine_right
        p = torch.where(right, 0.95, 0.75) if told_by == "uncertainty" else sure
        maps[name] = torch.stack([torch.where(label == k, p, 1 - p) for k in (0, 1)], dim=1)
    texture = torch.rand(n, 3, SIDE, SIDE) if told_by == "rgb" else torch.full((n, 3, SIDE, SIDE), 0.5)
    maps["rgb"] = torch.where(fine_right[:, None], texture, 0.5)
    return maps, truth


def learned(told_by: str, *, uses_rgb: bool, steps: int) -> float:
    """Share of pixels that are right on new maps, where the two maps differ."""
    torch.manual_seed(1)
    module = GateModule(2, uses_rgb=uses_rgb)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.2
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(steps):
        maps, truth = halves(told_by)
        optimizer.zero_grad()
        set_loss(module(**maps), (1 << truth).int()).backward()
        optimizer.step()
    maps, truth = halves(told_by, n=16)
    with torch.inference_mode():
        found = module.eval()(**maps).argmax(dim=1)
    differ = maps["fine"].argmax(dim=1) != maps["coarse"].argmax(dim=1)
    return float((found == truth)[differ].float().mean())


def test_pixels_tell_a_gate_that_sees_them() -> None:
    assert learned("rgb", uses_rgb=True, steps=60) > 0.9


def test_pixels_do_not_tell_one_that_does_not() -> None:
    assert learned("rgb", uses_rgb=False, steps=30) < 0.65


@KINDS
def test_uncertainty_tells_both(uses_rgb: bool) -> None:
    assert learned("uncertainty", uses_rgb=uses_rgb, steps=30) > 0.95


def test_gradients_reach_every_weight() -> None:
    module = GateModule(2, uses_rgb=True).train()
    nn.init.normal_(module.residual.weight, 0, 0.1)
    maps, truth = halves("rgb")
    set_loss(module(**maps), (1 << truth).int()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_a_choice_is_learned_where_exactly_one_is_right() -> None:
    one = torch.tensor([[0.9, 0.9, 0.1, 0.1]])
    other = torch.tensor([[0.9, 0.1, 0.9, 0.1]])
    fine, coarse = (torch.stack([p, 1 - p], dim=1)[..., None] for p in (one, other))
    sets = torch.tensor([[[1], [1], [1], [1]]], dtype=torch.int32)  # right: both, fine, coarse, none
    choice = torch.tensor([5.0, 2.0, 1.0, 5.0]).view(1, 1, 4, 1).requires_grad_()
    loss = choice_loss(choice, sets, fine=fine, coarse=coarse)
    expected = (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(1.0))) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert choice.grad is not None
    assert choice.grad.flatten().sign().tolist() == [0, -1, 1, 0]
    unlabelled = torch.full_like(sets, 3)
    assert choice_loss(choice, unlabelled, fine=fine, coarse=coarse) == 0
