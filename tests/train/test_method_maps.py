"""Inputs of other methods: the coarser result as a run has it, everything in its place, nothing computed twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.made import glands, setting_of
from tests.train.toy_methods import Blend, Dark
from wsi_magnet.magnet.step import without_margin
from wsi_magnet.methods.method import Needs
from wsi_magnet.nets.registry import build_network, feature_channels
from wsi_magnet.train import method_maps
from wsi_magnet.train.frozen_backbone import FrozenBackbone, double
from wsi_magnet.train.method_maps import (
    BackboneOutputs,
    ValidationMaps,
    all_needs,
    margin_of,
    outputs_on,
    patch_maps,
    upsampled,
)
from wsi_magnet.train.views import View, Windows

WINDOWS = Windows(64, 16, (4.0, 2.0, 1.0))
EVERYTHING = Needs(fine=True, features=True, context=True)


def view_of(windows: Windows, seed: int = 0) -> View:
    """Glands at every scale, other ones at each."""
    patches, sets = [], []
    for scale in range(windows.scales):
        image, mask = glands(seed + scale, windows.patch_px(scale))
        halo, side = windows.halo_at(scale), windows.window_px(scale)
        patches.append(image)
        sets.append((mask[halo : halo + side, halo : halo + side] + 1).astype(np.uint32))
    return View(tuple(patches), tuple(sets))


def frozen_of(folder: Path, windows: Windows = WINDOWS) -> FrozenBackbone:
    """A small network of random weights, with its features."""
    torch.manual_seed(0)
    network = build_network("small", 2, width=2)
    return FrozenBackbone.of(network, (1.0, 2.0, 3.0), windows, setting_of(folder)).with_features("small")


def learning() -> Blend:
    """A method with a head of random weights."""
    torch.manual_seed(1)
    return Blend(2, None, Blend.build_head(2, feature_channels("small", width=2)))


def places(windows: Windows) -> Tensor:
    """Positions of the pixels of a coarsest patch, in its own pixels from its corner: float32 (1, 2, p, p)."""
    centres = torch.arange(windows.patch_px(0)) + 0.5
    return torch.stack(torch.meshgrid(centres, centres, indexing="ij"))[None]


@pytest.mark.parametrize("margin_px", [0, 3, 16])
def test_the_coarser_result_is_the_whole_patch_doubled_and_cut(margin_px: int) -> None:
    side = WINDOWS.patch_px(0)
    coarsest = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    whole = double(double(coarsest))
    expected = without_margin(whole, 4 * WINDOWS.halo_at(0) - margin_px)
    assert torch.equal(upsampled(coarsest, WINDOWS, margin_px), expected)


@pytest.mark.parametrize("margin_px", [0, 16])
def test_a_patch_lies_where_its_context_and_its_coarser_result_have_it(margin_px: int) -> None:
    maps = patch_maps(
        [view_of(WINDOWS)],
        BackboneOutputs(places(WINDOWS), torch.zeros(1, 1, 8, 8), None, None),
        Needs(context=True),
        WINDOWS,
        margin_px,
    )
    assert maps.context is not None
    found = maps.context.at(maps.context.probabilities, maps.size_hw, maps.size_hw)
    assert torch.allclose(found, maps.coarse, atol=1e-3)
    assert maps.inner(maps.coarse).shape[-2:] == (64, 64)


@pytest.mark.parametrize("margin_px", [0, 8])
def test_pixels_features_and_probabilities_are_cut_alike(tmp_path: Path, margin_px: int) -> None:
    views, frozen = [view_of(WINDOWS, seed) for seed in (0, 9)], frozen_of(tmp_path)
    outputs = outputs_on(frozen, views, EVERYTHING)
    maps = patch_maps(views, outputs, EVERYTHING, WINDOWS, margin_px)
    assert maps.rgb is not None
    assert maps.fine is not None
    assert maps.features is not None
    border = WINDOWS.halo_at(2) - margin_px
    assert (maps.rgb[1].permute(1, 2, 0).numpy() * 255).round().tolist() == views[1].patches[2][
        border:-border, border:-border
    ].tolist()
    for view, fine in zip(views, maps.inner(maps.fine), strict=True):
        torch.testing.assert_close(fine[None], frozen.probabilities(view)[2], atol=1e-5, rtol=1e-4)
    assert maps.features.shape == (2, 6, (64 + 2 * margin_px) // 4, (64 + 2 * margin_px) // 4)
    assert outputs.finest_features is not None
    assert torch.equal(maps.features, without_margin(outputs.finest_features, border // 4))


def test_features_are_the_input_of_the_last_layer(tmp_path: Path) -> None:
    frozen, view = frozen_of(tmp_path), view_of(WINDOWS)
    probabilities, features = frozen.on_patches([view], 2)
    assert features is not None
    logits = frozen.network.get_submodule("classify")(features) / 3
    strided = torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(strided.softmax(dim=1), probabilities, atol=1e-5, rtol=1e-4)


def test_nothing_is_computed_that_is_not_needed(tmp_path: Path) -> None:
    outputs = outputs_on(frozen_of(tmp_path), [view_of(WINDOWS)], Needs())
    assert (outputs.finest, outputs.finest_features, outputs.coarsest_features) == (None, None, None)
    maps = patch_maps([view_of(WINDOWS)], outputs, Needs(rgb=False), WINDOWS)
    assert (maps.rgb, maps.fine, maps.features, maps.context) == (None, None, None, None)
    assert all_needs([Needs(), Needs(rgb=False, fine=True), Needs(context=True)]) == Needs(fine=True, context=True)


def test_a_margin_is_a_multiple_of_the_stride_and_within_the_halo() -> None:
    assert margin_of(Dark(2), Windows(64, 64, (2.0, 1.0))) == 32
    assert margin_of(Dark(2), WINDOWS) == 16
    assert margin_of(learning(), WINDOWS) == 0


@pytest.mark.parametrize("room", [True, False])
def test_the_backbone_sees_a_validation_view_once_for_all_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    if not room:
        monkeypatch.setattr(method_maps, "MOST_CACHED_BYTES", 0)
    frozen, views = frozen_of(tmp_path), [view_of(WINDOWS, seed) for seed in (0, 9)]
    calls = []
    frozen.network.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    methods = [Dark(2), learning(), Dark(2, {"threshold": 0.6})]
    validation = ValidationMaps(frozen, views, (0, 1), [one.info.needs for one in methods])
    found = [validation.miou(method, range(2), lambda done: None) for method in methods]
    assert len(calls) == (4 if room else 12)
    alone = [
        ValidationMaps(frozen, views, (0, 1), [one.info.needs]).miou(one, range(2), lambda done: None)
        for one in methods
    ]
    assert found == alone
    assert found[2] > 0.9 > found[0], "glands are dark"


def test_methods_start_from_the_coarser_result(tmp_path: Path) -> None:
    """A method that changes nothing is worth what it starts from."""
    frozen, views = frozen_of(tmp_path), [view_of(WINDOWS, seed) for seed in (0, 9)]
    validation = ValidationMaps(frozen, views, (0, 1), [Needs()])
    same = Dark(2, {"weight": 0.0})
    assert validation.upsampled_miou() == validation.miou(same, range(2), lambda done: None)
