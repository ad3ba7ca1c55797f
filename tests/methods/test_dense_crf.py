"""Mean field by the lattice against mean field by the sum over all pairs of pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.methods.made import (
    accuracy,
    maps_of,
    shifted_disc,
)
from wsi_magnet.methods.dense_crf import DenseCRF, PairKernels, colour_lattice, mean_field
from wsi_magnet.methods.method import PatchMaps

MODERATE = PairKernels(3.0, 12.0, 20.0, 2.0, 2.0)


def tissue(n_classes: int, size_hw: tuple[int, int] = (36, 32)) -> PatchMaps:
    """Blocks of three colours with a gradient of illumination and noise; classes that follow them roughly."""
    rng = torch.Generator().manual_seed(n_classes)
    kinds = torch.randint(3, (size_hw[0] // 8 + 1, size_hw[1] // 8 + 1), generator=rng)
    kinds = kinds.repeat_interleave(8, 0).repeat_interleave(8, 1)[: size_hw[0], : size_hw[1]]
    colours = torch.tensor([[0.92, 0.9, 0.92], [0.8, 0.5, 0.7], [0.45, 0.3, 0.6]])
    light = torch.linspace(-0.05, 0.05, size_hw[1])
    rgb = colours[kinds].permute(2, 0, 1) + light + 0.03 * torch.randn(3, *size_hw, generator=rng)
    scores = torch.randn(n_classes, *size_hw, generator=rng)
    scores[:2] += torch.stack([(kinds == 1).float(), (kinds == 2).float()]) * 1.5
    return PatchMaps(scores.softmax(dim=0)[None], 1.0, rgb=rgb.clamp(0, 1)[None])


def exact_kernels(rgb: Tensor, kernels: PairKernels) -> tuple[Tensor, Tensor]:
    """Both kernels between all pairs of pixels, float64 (N, N), normalised."""
    height, width = rgb.shape[-2:]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    colours = 255 * rgb.double().flatten(1).T
    apart = torch.cdist(places, places).square()
    like = torch.cdist(colours, colours).square() / (2 * kernels.theta_beta**2)
    both = [
        (-apart / (2 * kernels.theta_alpha_px**2) - like).exp(),
        (-apart / (2 * kernels.theta_gamma_px**2)).exp(),
    ]
    scales = [kernel.sum(dim=1).rsqrt() for kernel in both]
    first, second = (scale[:, None] * kernel * scale for scale, kernel in zip(scales, both, strict=True))
    return first, second


def exact_mean_field(maps: PatchMaps, kernels: PairKernels, iterations: int) -> Tensor:
    """Mean field by the sum over all pairs, float64 (C, H, W)."""
    assert maps.rgb is not None
    colour, distance = exact_kernels(maps.rgb[0], kernels)
    logits = maps.coarse[0].double().flatten(1).T.log()
    result = logits.softmax(dim=1)
    for _ in range(iterations):
        pairs = kernels.colour_weight * (colour @ result) + kernels.distance_weight * (distance @ result)
        result = (logits + pairs).softmax(dim=1)
    return result.T.reshape(maps.coarse.shape[1:])


def test_the_kernel_of_colours_is_near_the_exact_one() -> None:
    maps = tissue(3)
    assert maps.rgb is not None
    exact, _ = exact_kernels(maps.rgb[0], MODERATE)
    values = maps.coarse[0].flatten(1).T.contiguous()
    found, expected = colour_lattice(maps.rgb[0], MODERATE).filter(values), exact @ values.double()
    assert (found - expected).abs().mean() < 0.03 * expected.mean()
    assert (found - expected).abs().max() < 0.1


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("weights", [(1.5, 0.5), (3.0, 2.0)])
def test_mean_field_is_near_the_exact_one(n_classes: int, weights: tuple[float, float]) -> None:
    maps = tissue(n_classes)
    assert maps.rgb is not None
    kernels = replace(MODERATE, colour_weight=weights[0], distance_weight=weights[1])
    found = mean_field(maps.coarse[0], maps.rgb[0], kernels, 5)
    expected = exact_mean_field(maps, kernels, 5)
    assert (expected.argmax(dim=0) != maps.coarse[0].argmax(dim=0)).float().mean() > 0.05  # there is something to do
    assert (found.argmax(dim=0) == expected.argmax(dim=0)).float().mean() >= 0.98
    assert (found - expected).abs().mean() < 0.02


def test_the_kernel_of_the_distance_alone_is_exact() -> None:
    maps, kernels = tissue(3), replace(MODERATE, colour_weight=0.0)
    assert maps.rgb is not None
    found = mean_field(maps.coarse[0], maps.rgb[0], kernels, 5)
    assert torch.allclose(found.double(), exact_mean_field(maps, kernels, 5), rtol=0, atol=1e-4)


def test_nothing_changes_without_weights() -> None:
    maps = tissue(3)
    assert torch.allclose(DenseCRF(3, {"w": 0.0, "w_g": 0.0}).refine(maps), maps.coarse, atol=1e-5)


def test_widths_in_place_are_lengths() -> None:
    maps = maps_of("blocks")
    fine = DenseCRF(3, {"theta_alpha_um": 10.0, "theta_gamma_um": 1.0}).refine(replace(maps, mpp=0.5))
    coarse = DenseCRF(3, {"theta_alpha_um": 20.0, "theta_gamma_um": 2.0}).refine(replace(maps, mpp=1.0))
    assert torch.equal(fine, coarse)


def test_the_margin_is_two_theta_alpha_and_no_more_than_160_pixels() -> None:
    method = DenseCRF(2, {"theta_alpha_um": 40.0})
    assert [method.receptive_radius_px(mpp) for mpp in (0.25, 0.5, 1.0, 2.0)] == [160, 160, 80, 40]


def test_edges_move_to_those_of_the_image() -> None:
    maps, sets = shifted_disc()
    assert accuracy(DenseCRF(2).refine(maps), sets) > accuracy(maps.coarse, sets) + 0.02
