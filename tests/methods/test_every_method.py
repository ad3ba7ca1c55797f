"""Properties of every method of the package, with random heads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.methods.made import FEATURES, KINDS, made_method, maps_of, one_of, random_head
from wsi_magnet.errors import BundleError
from wsi_magnet.methods.method import PatchMaps
from wsi_magnet.methods.registry import _OWN, method_class

LEARNING = [name for name in _OWN if method_class(name).info.needs.head]
every = pytest.mark.parametrize("name", _OWN)
learning = pytest.mark.parametrize("name", LEARNING)


@every
def test_it_is_found_by_its_name_whatever_the_case(name: str) -> None:
    assert method_class(name.lower()).info.name == name


@learning
def test_it_needs_its_head(name: str) -> None:
    with pytest.raises(BundleError, match=f"no weights for {name}"):
        method_class(name)(3)


@learning
def test_a_head_can_be_made_without_memory_and_loaded(name: str) -> None:
    kind, maps, head = method_class(name), maps_of(), random_head(name, 3)
    assert head is not None
    with torch.device("meta"):
        empty = kind.build_head(3, FEATURES)
    assert empty is not None
    empty.load_state_dict(head.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(kind(3, None, empty.eval()).refine(maps), kind(3, None, head).refine(maps))


EXTREMES = [
    *((name, {}) for name in _OWN),
    ("GF", {"radius_um": 16.0, "epsilon": 1e-6}),
    ("DenseCRF", {"theta_alpha_um": 0.5, "theta_beta": 1.0}),
    ("DenseCRF", {"theta_alpha_um": 1000.0, "w": 100.0}),
    ("PointRend", {"share": 0.1}),
]


@pytest.mark.parametrize(("name", "parameters"), EXTREMES)
@given(
    st.integers(0, 10**6),
    st.sampled_from([2, 5]),
    st.sampled_from(KINDS),
    st.sampled_from([(32, 40), (29, 35)]),
    st.booleans(),
)
def test_the_result_is_probabilities(
    name: str, parameters: dict[str, float], seed: int, n_classes: int, kind: str, size_hw: tuple[int, int], flat: bool
) -> None:
    maps = maps_of(kind, n_classes, seed=seed, size_hw=size_hw, flat=flat)
    found = refined(name, replace(maps, margin_px=4), parameters)
    assert found.shape == (1, n_classes, size_hw[0] - 8, size_hw[1] - 8)
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(()).expand(1, *found.shape[2:]), atol=1e-4, rtol=0)


def refined(name: str, maps: PatchMaps, parameters: dict[str, float] | None = None) -> Tensor:
    """The result of a method with a random head."""
    with torch.no_grad():
        return made_method(name, maps.coarse.shape[1], parameters).refine(maps)


CERTAIN, UNDECIDED, ELSE = ([1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]), ([0.5, 0.5],), ([0.7, 0.2, 0.1],)
KEPT = {
    "GF": (*CERTAIN, *UNDECIDED, *ELSE),
    "DGF": (*CERTAIN, *UNDECIDED, *ELSE),
    "DenseCRF": (*CERTAIN, *UNDECIDED),  # the field makes others surer of their likeliest class
    "PointRend": CERTAIN,
    "SegFix": (*CERTAIN, *UNDECIDED, *ELSE),
    "DeepStrip": CERTAIN,
    "CascadePSP": CERTAIN,
}
"""Constant results that a method keeps on a constant image, whatever its head is."""


@pytest.mark.parametrize(("name", "probabilities"), [(name, one) for name, several in KEPT.items() for one in several])
def test_a_constant_stays(name: str, probabilities: list[float]) -> None:
    maps = maps_of("uniform", len(probabilities), flat=True)
    constant = torch.tensor(probabilities).view(1, -1, 1, 1).expand_as(maps.coarse).contiguous()
    found = refined(name, replace(maps, coarse=constant))
    exact = name in ("PointRend", "SegFix", "DeepStrip")
    torch.testing.assert_close(found, constant, atol=0 if exact else 1e-4, rtol=0)


@every
def test_a_batch_has_the_bits_of_its_patches_one_at_a_time_and_a_repetition_the_same(name: str) -> None:
    maps = maps_of(batch=3)
    together = refined(name, maps)
    assert not torch.equal(together, maps.coarse)
    assert torch.equal(together, refined(name, maps))
    assert torch.equal(together, torch.cat([refined(name, one_of(maps, i)) for i in range(3)]))


@every
def test_the_margin_is_cut_off(name: str) -> None:
    maps = maps_of()
    assert torch.equal(refined(name, replace(maps, margin_px=8)), refined(name, maps)[..., 8:-8, 8:-8])


@every
def test_a_local_method_sees_nothing_beyond_its_receptive_radius_and_others_do(name: str) -> None:
    """Left of a column all is changed: the coarser result is undecided, colours and features are others."""
    maps, edge = maps_of(size_hw=(24, 256)), 24
    radius = made_method(name).receptive_radius_px(maps.mpp)
    assert edge + radius < 200
    before, after = refined(name, maps), refined(name, changed_left(maps, edge))
    assert (before - after)[..., :edge].abs().max() > 1e-3
    far = (before - after)[..., edge + radius :].abs().max().item()
    assert (far < 1e-5) == method_class(name).info.local


def changed_left(maps: PatchMaps, edge: int) -> PatchMaps:
    """The maps, other than before left of a column, a multiple of 4."""
    assert maps.rgb is not None
    assert maps.features is not None
    coarse, rgb, features = maps.coarse.clone(), maps.rgb.clone(), maps.features.clone()
    coarse[..., :edge] = 1 / coarse.shape[1]
    rgb[..., :edge] = 1 - rgb[..., :edge]
    features[..., : edge // 4] *= -1
    return replace(maps, coarse=coarse, rgb=rgb, features=features)


@pytest.mark.parametrize("name", ["GF", "DGF"])
def test_the_receptive_radius_of_a_filter_is_exact(name: str) -> None:
    maps = maps_of("noise", size_hw=(80, 80))
    assert maps.rgb is not None
    rgb, coarse = maps.rgb.clone(), maps.coarse.clone()
    rgb[..., 40, 40], coarse[..., 40, 40] = 0.0, torch.tensor([1.0, 0.0, 0.0])
    differs = (refined(name, maps) != refined(name, replace(maps, rgb=rgb, coarse=coarse))).any(dim=1)[0].nonzero()
    assert (differs - 40).abs().max() == made_method(name).receptive_radius_px(maps.mpp)


def loss_of(name: str, sets: Tensor, seed: int = 0) -> tuple[Tensor, nn.Module]:
    """The loss of a random head on two windows, and the head with its gradients. sets: int32 (2, 32, 32)."""
    method = made_method(name)
    assert method.head is not None
    method.head.train()
    loss = method.loss(maps_of(batch=2, size_hw=(32, 32)), sets, torch.Generator().manual_seed(seed))
    loss.backward()
    return loss, method.head


@learning
def test_the_loss_is_a_function_of_its_generator_and_teaches_every_weight(name: str) -> None:
    sets = (1 << maps_of(seed=7, batch=2, size_hw=(32, 32)).coarse.argmax(dim=1)).int()
    before = torch.random.get_rng_state()
    (first, head), (again, _), (other, _) = (loss_of(name, sets, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (first.item() != other.item()) == (name in ("ISS", "PointRend", "CascadePSP"))
    for weight, parameter in head.named_parameters():
        assert parameter.grad is not None, weight
        assert parameter.grad.isfinite().all(), weight
        assert parameter.grad.abs().sum() > 0, weight


@learning
def test_what_is_not_labelled_teaches_nothing(name: str) -> None:
    """But for GLNet's coupling of its branches and DeepStrip's continuity, which need no labels."""
    loss, head = loss_of(name, torch.full((2, 32, 32), 0b111, dtype=torch.int32))
    assert loss.isfinite()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in head.parameters())
    assert (loss.item() == 0) == (name not in ("GLNet", "DeepStrip"))
