"""Every method of the package can be trained and validated on views as a training has them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from tests.train.made import setting_of, tiny_config
from tests.train.test_method_maps import view_of
from wsi_magnet.dataset.open_sample import SamplePool
from wsi_magnet.methods import registry
from wsi_magnet.methods.registry import method_class
from wsi_magnet.nets.registry import build_network
from wsi_magnet.train.config import MethodConfig
from wsi_magnet.train.frozen_backbone import FrozenBackbone
from wsi_magnet.train.method_maps import ValidationMaps
from wsi_magnet.train.methods import MethodStage, fresh_method
from wsi_magnet.train.sampler import CropSampler
from wsi_magnet.train.views import StageData, View, Windows, to_tensor

WINDOWS = Windows(96, 32, (2.0, 1.0))
CPU = torch.device("cpu")


def validation_of(folder: Path, name: str, views: tuple[View, ...]) -> ValidationMaps:
    """Validation views with a backbone of random weights, whose result has both classes."""
    torch.manual_seed(0)
    network = build_network("small", 2, width=2)
    frozen = FrozenBackbone.of(network, (1.0, 1.0), WINDOWS, setting_of(folder))
    with torch.no_grad():
        classify = frozen.network.get_submodule("classify")
        logits = frozen.network(to_tensor([views[0].patches[0]], CPU))
        classify.bias.sub_(logits.mean(dim=(0, 2, 3)))  # type: ignore[operator]
        classify.weight.mul_(30)  # type: ignore[operator]
        classify.bias.mul_(30)  # type: ignore[operator]
    return ValidationMaps(frozen.with_features("small"), views, (0, 1), [method_class(name).info.needs])


@pytest.mark.parametrize("name", registry._OWN)
def test_a_method_is_validated(tmp_path: Path, name: str) -> None:
    method = fresh_method(name, tiny_config(mpps=WINDOWS.mpps), CPU)
    validation = validation_of(tmp_path, name, (view_of(WINDOWS),))
    first, again = (validation.miou(method, [0], lambda done: None) for _ in range(2))
    assert 0 <= first == again <= 1


LEARNING = [name for name in registry._OWN if method_class(name).info.needs.head]
VIEWS = (view_of(WINDOWS, 0), view_of(WINDOWS, 9))


def stage_of(folder: Path, name: str, weights: Tensor | None = None) -> MethodStage:
    """The training of a method with a batch of two windows. weights: of the classes."""
    training = tiny_config(mpps=WINDOWS.mpps, methods={name: MethodConfig(steps=4, window_px=96, batch=2)})
    nothing = cast(SamplePool, None), cast(CropSampler, None)
    data = StageData(*nothing, weights=weights, views=VIEWS, windows=WINDOWS, part_of=(0, 1), background=None)
    validation = validation_of(folder, name, VIEWS)
    stage = MethodStage(fresh_method(name, training, CPU), training, data, validation, setting_of(folder))
    stage.learned.train()
    return stage


@pytest.mark.parametrize("name", LEARNING)
def test_a_head_learns_from_a_batch(tmp_path: Path, name: str) -> None:
    stage = stage_of(tmp_path, name)
    loss = stage.loss(list(VIEWS), 0)
    loss.backward()
    assert loss.item() == stage.loss(list(VIEWS), 0).item(), "chance is that of the step"
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in stage.learned.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.learned.parameters())


@pytest.mark.parametrize("name", LEARNING)
def test_weights_of_classes_reach_the_heads_that_predict_classes(tmp_path: Path, name: str) -> None:
    plain, equal, unequal = (
        stage_of(tmp_path, name, weights).loss(list(VIEWS), 0).item()
        for weights in (None, torch.ones(2), torch.tensor([0.2, 5.0]))
    )
    assert equal == pytest.approx(plain, rel=1e-5)
    assert (unequal == plain) == (name in ("SegFix", "DeepStrip", "CascadePSP"))


def test_every_method_can_be_listed() -> None:
    """Names are in the poster's spelling, so that a bundle's are those of the registry."""
    assert list(tiny_config(methods=dict.fromkeys(registry._OWN)).methods) == list(registry._OWN)
