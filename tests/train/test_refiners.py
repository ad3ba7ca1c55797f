"""Stage 2: what Y is in training, that all maps are cut alike, and that only the modules learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.train.made import glands, setting_of, tiny_config
from wsi_magnet.dataset.open_sample import SamplePool
from wsi_magnet.nets.refiner import RefinementModule
from wsi_magnet.nets.registry import build_network, build_refiner
from wsi_magnet.train.frozen_backbone import FrozenBackbone, double
from wsi_magnet.train.refiners import RefinerStage
from wsi_magnet.train.sampler import CropSampler
from wsi_magnet.train.views import StageData, View, Windows

MAPS = torch.rand(1, 2, 64, 64, generator=torch.Generator().manual_seed(0)).softmax(dim=1)


def stage_of(folder: Path, module: str = "magnet", **refiners: Any) -> RefinerStage:
    """A stage that is handed its views, over a backbone of random weights."""
    torch.manual_seed(0)
    config = tiny_config(refiners={"module": module, **refiners})
    windows = Windows(config.refiners.window_px, config.halo_px, config.mpps)
    setting = setting_of(folder)
    frozen = FrozenBackbone.of(build_network("small", 2, width=2), (1.0, 1.0, 1.0), windows, setting)
    nothing = cast(SamplePool, None), cast(CropSampler, None)
    data = StageData(*nothing, weights=None, views=(), windows=windows, part_of=(0, 1), background=None)
    modules = nn.ModuleList(build_refiner(module, 2) for _ in range(2))
    return RefinerStage(modules, config, data, frozen, setting)


def view_of(windows: Windows) -> View:
    """Glands at every scale."""
    patches = tuple(glands(scale, windows.patch_px(scale))[0] for scale in range(windows.scales))
    masks = (glands(scale, windows.window_px(scale))[1] for scale in range(windows.scales))
    return View(patches, tuple((mask + 1).astype(np.uint32) for mask in masks))


def climbed(stage: RefinerStage, step: int) -> list[Tensor]:
    """Y for the finest scale, of several draws, modules being sure of what they say."""
    with torch.no_grad():
        cast(RefinementModule, stage.learned[0]).seg_conv.weight.fill_(0).add_(
            torch.tensor([9.0, -9.0]).view(2, 1, 1, 1)
        )
    return [
        stage._next_coarse(
            {"fine": double(MAPS[..., :16, :16]), "coarse": double(MAPS[..., 16:32, :16])},
            1,
            np.random.default_rng(i),
            step,
        )
        for i in range(20)
    ]


def test_as_published_y_is_always_the_coarsest_scales_own(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, input="published")
    assert all(torch.equal(one, double(MAPS[..., 16:32, :16])) for one in climbed(stage, step=3))


@pytest.mark.parametrize(("step", "own_work"), [(0, 0), (1, 10), (3, 20)])
def test_cumulative_y_is_the_modules_own_work_more_and_more_often(tmp_path: Path, step: int, own_work: int) -> None:
    stage = stage_of(tmp_path, input="cumulative")
    changed = sum(not torch.equal(one, double(MAPS[..., 16:32, :16])) for one in climbed(stage, step))
    assert abs(changed - own_work) <= 6 * (0 < own_work < 20)


def test_own_work_leaves_the_modules_in_training_and_their_statistics_alone(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, input="cumulative")
    stage.learned.train()
    before = {key: tensor.clone() for key, tensor in stage.learned.named_buffers()}
    climbed(stage, step=3)
    assert stage.learned[0].training
    assert all(torch.equal(tensor, before[key]) for key, tensor in stage.learned.named_buffers())


def test_all_maps_are_cut_alike(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, crops=5, crop_px=12)
    places = torch.arange(64 * 64).view(1, 1, 64, 64)
    maps = {"fine": places.float(), "rgb": places.float().expand(1, 3, 64, 64), "sets": places[:, 0].int()}
    found = stage._crops(maps, np.random.default_rng(0))
    assert found["fine"].shape == (5, 1, 12, 12)
    assert torch.equal(found["fine"].expand(5, 3, 12, 12), found["rgb"])
    assert torch.equal(found["fine"][:, 0].int(), found["sets"])


def test_a_map_no_larger_than_a_crop_is_taken_whole_and_once(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, crops=5, crop_px=100)
    assert torch.equal(stage._crops({"fine": MAPS}, np.random.default_rng(0))["fine"], MAPS)


@pytest.mark.parametrize(("module", "choice_weight"), [("magnet", 0.0), ("gate", 0.0), ("gate+rgb", 0.5)])
def test_all_modules_learn_and_the_backbone_does_not(tmp_path: Path, module: str, choice_weight: float) -> None:
    stage = stage_of(tmp_path, module, choice_weight=choice_weight)
    for name, weight in stage.learned.named_parameters():
        if name.endswith("residual.weight"):  # which begins at 0, so that nothing passes it
            nn.init.normal_(weight, 0, 0.1)
    stage.learned.train()
    stage.loss([view_of(stage._windows)], step=2).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.learned.parameters())
    assert all(p.grad is None for p in stage._frozen.network.parameters())


@pytest.mark.parametrize("loss", ["cross_entropy", "ohem"])
def test_the_loss_is_the_same_each_time(tmp_path: Path, loss: str) -> None:
    stage = stage_of(tmp_path, loss=loss, ohem_kept=300)
    view = view_of(stage._windows)
    assert stage.loss([view], step=1).item() == stage.loss([view], step=1).item()


def test_at_a_threshold_of_0_everything_is_refined(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    stage.learned.eval()
    with torch.no_grad():
        merged = stage.merge({"fine": MAPS, "coarse": MAPS.flip(1)}, scale=1, above=0.0)
        refined = stage.learned[0](fine=MAPS, coarse=MAPS.flip(1)).softmax(dim=1)
    assert torch.equal(merged, refined)


def test_a_module_that_uses_the_pixels_is_shown_those_of_the_window(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, "gate+rgb")
    view, windows = view_of(stage._windows), stage._windows
    inputs = stage._inputs(view, MAPS, MAPS[..., :32, :32], 2)
    halo, side = windows.halo_at(2), windows.window_px(2)
    shown = view.patches[2][halo : halo + side, halo : halo + side]
    assert np.array_equal(inputs["rgb"][0].mul(255).round().byte().permute(1, 2, 0).numpy(), shown)
    assert "rgb" not in stage_of(tmp_path, "gate")._inputs(view, MAPS, MAPS[..., :32, :32], 2)


def test_the_choice_counts_as_much_as_it_is_weighed(tmp_path: Path) -> None:
    losses = []
    for weight in (0.0, 1.0, 3.0):
        stage = stage_of(tmp_path, "gate", choice_weight=weight)
        stage.learned.eval()
        losses.append(stage.loss([view_of(stage._windows)], step=1).item())
    assert losses[1] > losses[0]
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-4)
