"""Mixed precision: the loss in fp16 is scaled, steps that overflow are left out, and weights stay float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.made import Stopped, ToyStage, same, setting_of, stopping_at, tiny_config, toy_config, trained
from tests.train.test_backbone import Squares
from wsi_magnet.errors import TrainingError
from wsi_magnet.train.config import StageConfig
from wsi_magnet.train.loop import Loop

SCALE = 2.0**16
"""First scale of the loss."""


class Overflowing(ToyStage):
    """A toy in fp32, whose gradients are infinite at some steps, as they are in fp16 where the scale is too large."""

    def __init__(self, config: StageConfig, *steps: int) -> None:
        super().__init__(config)
        self._overflowing = steps

    def loss(self, batch: Tensor, step: int) -> Tensor:
        """The toy's loss, which stays finite."""
        found = super().loss(batch, step)
        if step in self._overflowing:
            found.register_hook(lambda gradient: gradient * float("inf"))
        return found


def saved(path: Path) -> dict[str, Any]:
    """Content of a checkpoint."""
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def test_a_scaled_loss_trains_the_same_weights(tmp_path: Path) -> None:
    config = toy_config(optimizer="sgd", clip=1.0)
    _, plain = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "fp32.ckpt"))
    _, scaled = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "fp16.ckpt", precision="fp16"))
    assert same(plain, scaled)
    assert saved(tmp_path / "fp16.ckpt")["scaler"]["scale"] == SCALE
    assert saved(tmp_path / "fp32.ckpt")["scaler"] == {}


@pytest.mark.parametrize("step", [0, 4])
def test_a_step_that_overflows_changes_no_weight_and_halves_the_scale(tmp_path: Path, step: int) -> None:
    config = toy_config(checkpoint_every=1, average=0.0)
    setting = setting_of(tmp_path, precision="fp16", notify=stopping_at("toy", step + 2))
    before: dict[str, Tensor] = {}

    class Watching(Overflowing):
        def loss(self, batch: Tensor, step: int) -> Tensor:
            before[f"{step}"] = self.learned.get_parameter("0.weight").detach().clone()
            return super().loss(batch, step)

    with pytest.raises(Stopped):
        Loop(Watching(config, step), setting).run()
    assert torch.equal(before[f"{step}"], before[f"{step + 1}"])
    found = saved(setting.checkpoint)
    assert found["step"] == step + 1
    assert found["scaler"]["scale"] == SCALE / 2
    assert found["schedule"]["last_epoch"] == step + 1


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_training_that_overflows_resumes_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    config = toy_config()
    overflowing = (1, 4, 5)
    expected = trained(Overflowing(config, *overflowing), setting_of(tmp_path, precision="fp16"))[1]
    checkpoint = tmp_path / "stopped.ckpt"
    setting = setting_of(tmp_path, precision="fp16", checkpoint=checkpoint, notify=stopping_at("toy", stop))
    with pytest.raises(Stopped):
        Loop(Overflowing(config, *overflowing), setting).run()
    setting = setting_of(tmp_path, precision="fp16", checkpoint=checkpoint)
    assert same(trained(Overflowing(config, *overflowing), setting)[1], expected)
    assert saved(checkpoint)["scaler"]["scale"] == SCALE / 8


def test_gradients_that_always_overflow_end_the_training_with_a_cure(tmp_path: Path) -> None:
    stage = Overflowing(toy_config(steps=60, validate_every=30, checkpoint_every=100), *range(60))
    with pytest.raises(TrainingError, match=r"toy: gradients in fp16 overflow at step 30, .*precision to bf16 or fp32"):
        Loop(stage, setting_of(tmp_path, precision="fp16")).run()
    assert not (tmp_path / "toy.ckpt").exists()


def test_in_bf16_the_network_computes_in_it_and_weights_stay_float32(tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        config = tiny_config(backbone={"batch": 2, "accumulate": 2})
        setting = setting_of(tmp_path, precision=precision, checkpoint=tmp_path / f"{precision}.ckpt")
        stage = Squares(config, setting)
        with setting.autocast():
            computed = stage.learned(torch.zeros(1, 3, 64, 64)).dtype
        assert computed == (torch.bfloat16 if precision == "bf16" else torch.float32)
        losses.append([row.loss for row in Loop(stage, setting, stage.encoder).run().rows])
        assert {one.dtype for one in stage.learned.parameters()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.01)
    assert losses[0] == pytest.approx(losses[1], rel=0.3)
