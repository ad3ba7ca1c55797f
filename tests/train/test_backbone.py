"""The stage of the backbone: an encoder that learns slowly or not at all, and batches that are added up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.train.made import Stopped, same, setting_of, stopping_at, tiny_config, trained
from wsi_magnet.dataset.open_sample import SamplePool
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.nets.network import NetworkInfo
from wsi_magnet.nets.registry import OWN_NETWORKS, build_network, network_info, unloaded
from wsi_magnet.train.backbone import BackboneStage, Crops
from wsi_magnet.train.config import TrainingConfig
from wsi_magnet.train.loop import Loop, Setting
from wsi_magnet.train.sampler import CropSampler
from wsi_magnet.train.views import StageData, Windows

LABELS = {1: (200, 60, 60), 2: (60, 60, 200)}
"""Colour of each label set: the truth is easily learned."""


class DrawSquares:
    """Crops of two coloured halves, an item a seed; some pixels are not labelled, more of them the later the item."""

    def __call__(self, step: int, mine: range) -> Crops:
        """64 x 64 pixels each."""
        images, sets = np.zeros((len(mine), 64, 64, 3), np.uint8), np.full((len(mine), 64, 64), 3, np.uint32)
        for place, item in enumerate(mine):
            border = int(np.random.default_rng([step, item]).integers(8, 56))
            images[place, :, :border], images[place, :, border:] = LABELS[1], LABELS[2]
            sets[place, item:, :border], sets[place, item:, border:] = 1, 2
        return Crops(images, sets)


class Squares(BackboneStage):
    """The stage without a data set; validated on its own crops."""

    def __init__(self, config: TrainingConfig, setting: Setting, network: nn.Module | None = None) -> None:
        nothing = cast(SamplePool, None), cast(CropSampler, None)
        data = StageData(*nothing, None, (), Windows(64, 32, config.mpps), (0, 1), None)
        torch.manual_seed(config.seed)
        super().__init__(network or build_network("small", 2, width=2), config, data, setting)
        self.draw = DrawSquares()  # type: ignore[assignment]

    def validate(self) -> float:
        """Minus the loss, as a share."""
        return float(torch.exp(-self.loss(self.draw(99, range(4)), 0)))


def trained_squares(folder: Path, name: str, **backbone: Any) -> tuple[Squares, dict[str, Tensor]]:
    """The stage and its weights after training."""
    setting = setting_of(folder, checkpoint=folder / f"{name}.ckpt")
    stage = Squares(tiny_config(backbone=backbone), setting)
    Loop(stage, setting, stage.encoder).run()
    return stage, stage.learned.state_dict()


def test_a_frozen_encoder_keeps_weights_and_running_means_and_has_no_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = build_network("small", 2, width=2).state_dict()
    stage, after = trained_squares(tmp_path, "frozen", encoder_learning_rate=0.0)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not [key for key in changed if key.startswith(("stem.", "stages."))]
    assert {"classify.weight", "smooth.1.running_mean"} <= changed
    saved = torch.load(tmp_path / "frozen.ckpt", weights_only=True)
    decoder = [key for key, _ in stage.learned.named_parameters() if not key.startswith(("stem.", "stages."))]
    assert len(saved["optimizer"]["state"]) == len(decoder)


@pytest.mark.parametrize("schedule", ["one_cycle", "poly", "steps"])
def test_an_encoder_has_its_share_of_every_learning_rate(tmp_path: Path, schedule: str) -> None:
    trained_squares(tmp_path, "slow", encoder_learning_rate=0.1, schedule=schedule, steps=3)
    rest, encoder = torch.load(tmp_path / "slow.ckpt", weights_only=True)["optimizer"]["param_groups"]
    assert encoder["lr"] == pytest.approx(0.1 * rest["lr"])
    assert len(encoder["params"]) > len(rest["params"]) > 0


def test_a_slow_encoder_moves_less(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = build_network("small", 2, width=2).state_dict()
    moved = []
    for factor in (1.0, 0.1):
        _, after = trained_squares(tmp_path, f"{factor}", encoder_learning_rate=factor, steps=2, keep_from=1.0)
        moved.append(float((after["stem.0.0.weight"] - before["stem.0.0.weight"]).abs().mean()))
    assert 0 < moved[1] < moved[0] / 3


@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_stopped_and_resumed_it_ends_in_the_same_weights(tmp_path: Path, factor: float) -> None:
    _, expected = trained_squares(tmp_path, "through", encoder_learning_rate=factor)
    config = tiny_config(backbone={"encoder_learning_rate": factor})
    setting = setting_of(tmp_path, notify=stopping_at("backbone", 3))
    stage = Squares(config, setting)
    with pytest.raises(Stopped):
        Loop(stage, setting, stage.encoder).run()
    setting = setting_of(tmp_path)
    stage = Squares(config, setting)
    Loop(stage, setting, stage.encoder).run()
    assert same(stage.learned.state_dict(), expected)


@pytest.mark.parametrize("name", [name for name in OWN_NETWORKS if name != "identity"])
def test_every_network_of_the_house_names_an_encoder_that_knows_no_classes(name: str) -> None:
    info = network_info(name)
    two, five = (nn.ModuleList(info.encoder_of(unloaded(info, count, {}))).state_dict() for count in (2, 5))
    assert {key: one.shape for key, one in two.items()} == {key: one.shape for key, one in five.items()}
    assert two
    if info.trunk:
        assert {(info.trunk.prefix + layer).partition(".")[0] for layer in info.trunk.layers} == set(info.encoder)


def test_a_network_without_an_encoder_refuses_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"'identity' names none; leave it out, or choose another network"):
        tiny_config(backbone={"network": "identity", "network_args": {}, "encoder_learning_rate": 0.1})


@pytest.mark.parametrize(("encoder", "said"), [(("0", "1"), "all that it learns"), (("trunk",), "is not there")])
def test_an_encoder_that_cannot_be_is_refused(encoder: tuple[str, ...], said: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    with pytest.raises(BundleError, match=said):
        NetworkInfo("own", nn.Sequential, encoder=encoder).encoder_of(network)


def test_defaults_are_not_written_so_that_earlier_checkpoints_stay_usable() -> None:
    written = tiny_config().to_json()["backbone"]
    assert not {"encoder_learning_rate", "accumulate"} & written.keys()
    changed = tiny_config(backbone={"accumulate": 2, "encoder_learning_rate": 0.5}).to_json()["backbone"]
    assert (changed["accumulate"], changed["encoder_learning_rate"]) == (2, 0.5)


def plain_network() -> nn.Module:
    """A network whose crops do not see each other."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))


def weighed(stage: Squares, weights: tuple[float, float] | None) -> Squares:
    """The stage with weights of classes."""
    stage._data = replace(stage._data, weights=None if weights is None else torch.tensor(weights))
    return stage


@pytest.mark.parametrize("weights", [None, (0.2, 3.0)])
def test_accumulated_batches_are_one_batch_so_many_times_as_large(
    tmp_path: Path, weights: tuple[float, float] | None
) -> None:
    found = []
    for batch, accumulate in ((6, 1), (2, 3)):
        own = {"batch": batch, "accumulate": accumulate, "optimizer": "sgd", "learning_rate": 0.1}
        setting = setting_of(tmp_path, checkpoint=tmp_path / f"{batch}.ckpt")
        stage = weighed(Squares(tiny_config(backbone=own), setting, plain_network()), weights)
        history, state = trained(stage, setting)  # type: ignore[arg-type]
        found.append(([row.loss for row in history.rows], state))
    (losses, expected), (again, state) = found
    assert again[0] == pytest.approx(losses[0], rel=1e-6)
    assert again == pytest.approx(losses, rel=1e-4)  # rounding adds up from step to step
    for key, tensor in expected.items():
        torch.testing.assert_close(state[key], tensor, rtol=1e-3, atol=1e-5)
    assert losses[-1] < losses[0]


def test_batch_normalisation_sees_each_accumulated_batch_alone(tmp_path: Path) -> None:
    setting = setting_of(tmp_path)
    stage = Squares(tiny_config(backbone={"batch": 2, "accumulate": 3}), setting)
    counter = stage.learned.get_buffer("smooth.1.num_batches_tracked")
    list(stage.losses(stage.draw(0, range(6)), 0))
    assert int(counter) == 3
