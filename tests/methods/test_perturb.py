"""Masks made worse: by as much as was wished, in the right places, by the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from tests.methods.shapes import labels_of
from wsi_magnet.methods.perturb import (
    box_blur,
    iou,
    perturbed_classes,
    perturbed_mask,
    shifted,
    smooth_noise,
    softened,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10**6), st.integers(0, 4))
def test_the_box_filter_is_scipys(seed: int, radius: int) -> None:
    maps = torch.rand(2, 17, 12, generator=generator(seed))
    expected = ndimage.uniform_filter(maps.double().numpy(), (0, 2 * radius + 1, 2 * radius + 1), mode="nearest")
    np.testing.assert_allclose(box_blur(maps, radius).numpy(), expected, atol=1e-5)


@given(st.integers(-9, 9), st.integers(-9, 9))
def test_a_shift_is_scipys(down: int, right: int) -> None:
    maps = torch.rand(1, 7, 6, generator=generator(0))
    expected = ndimage.shift(maps[0].numpy(), (down, right), order=0, mode="nearest")
    np.testing.assert_array_equal(shifted(maps, (down, right))[0].numpy(), expected)


@given(st.integers(0, 10**6), st.floats(0.8, 1.0))
def test_a_mask_keeps_the_iou_that_it_should(seed: int, least: float) -> None:
    mask = labels_of(generator(seed), 3, 48) > 0
    assert least <= iou(perturbed_mask(mask, least, generator(seed)), mask) <= 1


def test_noise_takes_what_it_may() -> None:
    found = []
    for seed in range(20):
        mask = labels_of(generator(seed), 3, 96) > 0
        found.append(iou(perturbed_mask(mask, 0.8, generator(seed)), mask))
    assert 0.8 <= np.mean(found) < 0.9


def test_changes_lie_at_the_border() -> None:
    mask = torch.zeros(96, 96, dtype=torch.bool)
    mask[24:72, 24:72] = True
    distance = ndimage.distance_transform_edt(mask.numpy()) + ndimage.distance_transform_edt(~mask.numpy())
    changed = torch.stack([perturbed_mask(mask, 0.8, generator(s)) ^ mask for s in range(10)]).any(dim=0).numpy()
    assert changed.any()
    assert np.median(distance[changed]) <= 6


@pytest.mark.parametrize("value", [True, False])
def test_a_mask_without_a_border_may_stay(value: bool) -> None:
    mask = torch.full((40, 40), value)
    assert iou(perturbed_mask(mask, 1.0, generator(0)), mask) == 1


@given(st.integers(0, 10**6), st.integers(2, 5))
def test_classes_stay_probabilities(seed: int, n_classes: int) -> None:
    labels = labels_of(generator(seed), n_classes, 40)
    maps = torch.nn.functional.one_hot(labels, n_classes).movedim(-1, 0).float()
    worse = perturbed_classes(maps, generator(seed))
    assert worse.shape == maps.shape
    assert worse.min() >= 0
    torch.testing.assert_close(worse.sum(dim=0), torch.ones(40, 40), atol=1e-4, rtol=0)


def test_classes_are_made_worse_but_stay_recognisable() -> None:
    agreement = []
    for seed in range(20):
        labels = labels_of(generator(seed), 3, 96)
        maps = torch.nn.functional.one_hot(labels, 3).movedim(-1, 0).float()
        agreement.append(float((perturbed_classes(maps, generator(seed)).argmax(dim=0) == labels).float().mean()))
    assert 0.75 < np.mean(agreement) < 0.99


def test_the_generator_is_the_only_source_of_chance() -> None:
    mask = labels_of(generator(0), 3, 48) > 0
    before = torch.random.get_rng_state()

    def made(seed: int) -> list[torch.Tensor]:
        rng = generator(seed)
        maps = torch.stack([mask, ~mask]).float()
        return [perturbed_mask(mask, 0.8, rng).float(), perturbed_classes(maps, rng), softened(maps, rng)]

    assert all(torch.equal(a, b) for a, b in zip(made(3), made(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(made(3), made(4), strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 48))
def test_noise_has_the_shape_that_is_wished(height: int, width: int, grain: int) -> None:
    noise = smooth_noise(torch.zeros(2, height, width), grain, generator(1))
    assert noise.shape == (2, height, width)
    assert torch.isfinite(noise).all()


def test_noise_is_smooth_and_of_unit_size() -> None:
    noise = smooth_noise(torch.zeros(8, 200, 200), 16, generator(2))
    assert 0.5 < float(noise.std()) < 1.1
    assert float(noise.diff(dim=-1).abs().max()) < 0.5
