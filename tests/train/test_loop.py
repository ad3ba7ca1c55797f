"""The loop: a training that was stopped goes on as if it had not been, the best weights are kept, NaN ends it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.few import slow_except
from tests.train.made import Stopped, ToyStage, same, setting_of, stopping_at, toy_config, trained
from wsi_magnet.errors import TrainingError
from wsi_magnet.train import drawing, loop
from wsi_magnet.train.config import StageConfig
from wsi_magnet.train.history import History, Row
from wsi_magnet.train.loop import Loop, Setting, evaluating, resolve_training_precision
from wsi_magnet.train.optimizer import make_optimizer, make_schedule

WAYS: list[dict[str, Any]] = [
    {"optimizer": "adamw", "schedule": "one_cycle", "average": 0.9},
    {"optimizer": "sgd", "schedule": "poly", "clip": 0.0},
    {"optimizer": "sgd", "schedule": "steps", "checkpoint_every": 1},
]


def rows_of(history: History) -> list[tuple[int, float, float, float | None]]:
    """The rows without their seconds."""
    return [(row.step, row.loss, row.learning_rate, row.miou) for row in history.rows]


@pytest.mark.parametrize("way", slow_except(WAYS[:1], WAYS), ids=lambda way: way["schedule"])
def test_stopped_after_any_step_and_resumed_it_ends_in_the_same_weights(tmp_path: Path, way: dict[str, Any]) -> None:
    config = toy_config(**way)
    expected, weights = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "through.ckpt"))
    for step in range(1, config.steps + 1):
        setting = setting_of(tmp_path, checkpoint=tmp_path / f"{step}.ckpt", notify=stopping_at("toy", step))
        with pytest.raises(Stopped):
            Loop(ToyStage(config), setting).run()
        history, found = trained(ToyStage(config), setting_of(tmp_path, checkpoint=setting.checkpoint))
        assert same(found, weights)
        assert rows_of(history) == rows_of(expected)


def test_stopped_again_and_again_it_ends_in_the_same_weights(tmp_path: Path) -> None:
    config = toy_config(checkpoint_every=1)
    expected, weights = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "through.ckpt"))
    for step in range(2, config.steps + 1):
        with pytest.raises(Stopped):
            Loop(ToyStage(config), setting_of(tmp_path, notify=stopping_at("toy", step))).run()
    history, found = trained(ToyStage(config), setting_of(tmp_path))
    assert same(found, weights)
    assert rows_of(history) == rows_of(expected)


def interrupting_at(step: int, number: signal.Signals) -> Callable[[str, Row, int], None]:
    """A watcher that sends this process a signal at a step."""

    def notify(name: str, row: Row, steps: int) -> None:
        if row.step == step and row.miou is None:
            signal.raise_signal(number)

    return notify


@pytest.mark.parametrize("step", [1, 3, 5, 8])
def test_ctrl_c_loses_no_step_and_changes_no_weight(tmp_path: Path, step: int) -> None:
    config = toy_config(checkpoint_every=1000)
    expected, weights = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "through.ckpt"))
    with pytest.raises(KeyboardInterrupt):
        Loop(ToyStage(config), setting_of(tmp_path, notify=interrupting_at(step, signal.SIGINT))).run()
    assert torch.load(tmp_path / "toy.ckpt", weights_only=True)["step"] == step
    history, found = trained(ToyStage(config), setting_of(tmp_path))
    assert same(found, weights)
    assert rows_of(history) == rows_of(expected)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Signalled(ToyStage):
    """A signal comes in the middle of a step or a validation; what follows would take for ever."""

    def __init__(self, config: StageConfig, setting: Setting, number: signal.Signals, *, step: int = -1) -> None:
        """step: the one in which it comes; -1: the first validation."""
        super().__init__(config)
        self._setting, self._number, self._at = setting, number, step

    def loss(self, batch: Tensor, step: int) -> Tensor:
        """The signal comes after the running means have changed."""
        found = super().loss(batch, step)
        if step == self._at:
            signal.raise_signal(self._number)
            pytest.fail("the step went on")
        return found

    def validate(self) -> float:
        """The signal comes between two views."""
        if self._at < 0:
            signal.raise_signal(self._number)
            self._setting.validated(1, 100)
            pytest.fail("the validation went on")
        return super().validate()


@pytest.fixture
def _sigterm() -> Iterator[None]:
    """SIGTERM as the command line handles it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_sigterm")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("step", "saved_step"), [(4, 4), (0, 0), (-1, 3)])
def test_a_signal_in_a_step_or_a_validation_does_not_wait_for_its_end(
    tmp_path: Path, number: signal.Signals, step: int, saved_step: int
) -> None:
    config = toy_config(checkpoint_every=1000)
    expected, weights = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "through.ckpt"))
    setting = setting_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Loop(Signalled(config, setting, number, step=step), setting).run()
    saved = torch.load(tmp_path / "toy.ckpt", weights_only=True)
    assert (saved["step"], saved["validation_due"]) == (saved_step, step < 0)
    history, found = trained(ToyStage(config), setting_of(tmp_path))
    assert same(found, weights)
    assert rows_of(history) == rows_of(expected)
    assert signal.getsignal(number) is signal.default_int_handler


def test_a_signal_in_the_last_validation_is_made_good(tmp_path: Path) -> None:
    config = toy_config(validate_every=8, checkpoint_every=1000)
    expected, weights = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "through.ckpt"))
    setting = setting_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Loop(Signalled(config, setting, signal.SIGINT), setting).run()
    history, found = trained(ToyStage(config), setting_of(tmp_path))
    assert same(found, weights)
    assert rows_of(history) == rows_of(expected)


def test_ctrl_c_twice_does_not_wait(tmp_path: Path) -> None:
    def notify(name: str, row: Row, steps: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Loop(ToyStage(toy_config()), setting_of(tmp_path, notify=notify)).run()
    assert not (tmp_path / "toy.ckpt").exists()


def test_a_signal_that_others_handle_is_left_to_them(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        history, _ = trained(ToyStage(toy_config()), setting_of(tmp_path, notify=interrupting_at(2, signal.SIGTERM)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert len(history.rows) == 8


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    first, weights = trained(ToyStage(toy_config()), setting_of(tmp_path))
    stage = ToyStage(toy_config())
    history, found = trained(stage, setting_of(tmp_path))
    assert stage.drawn == []
    assert same(found, weights)
    assert rows_of(history) == rows_of(first)


def test_the_history_has_every_step_once_and_a_look_where_due(tmp_path: Path) -> None:
    history, _ = trained(ToyStage(toy_config()), setting_of(tmp_path))
    assert [row.step for row in history.rows] == list(range(1, 9))
    assert [row.step for row in history.validations] == [3, 6, 8]


def test_every_row_is_told_and_a_look_again_with_its_miou(tmp_path: Path) -> None:
    heard: list[tuple[str, int, bool, int]] = []

    def notify(stage: str, row: Row, steps: int) -> None:
        heard.append((stage, row.step, row.miou is not None, steps))

    trained(ToyStage(toy_config(steps=4)), setting_of(tmp_path, notify=notify))
    assert heard == [("toy", *row, 4) for row in [(1, False), (2, False), (3, False), (3, True), (4, False), (4, True)]]


def test_the_best_weights_are_kept_and_not_the_last(tmp_path: Path) -> None:
    mious = (0, 0, 0.2, 0, 0, 0.9, 0, 0.1)
    _, weights = trained(ToyStage(toy_config(), mious=mious), setting_of(tmp_path))
    config = toy_config(validate_every=6)
    stage = ToyStage(config)
    with pytest.raises(Stopped):
        Loop(stage, setting_of(tmp_path, checkpoint=tmp_path / "other.ckpt", notify=stopping_at("toy", 7))).run()
    saved = torch.load(tmp_path / "other.ckpt", weights_only=True)
    assert same(weights, saved["learned"])


def test_it_ends_after_so_many_looks_that_were_no_better(tmp_path: Path) -> None:
    mious = (0.1, 0.5, 0.4, 0.5, 0.9, 0.9, 0.9, 0.9)
    config = toy_config(validate_every=1, patience=2)
    history, _ = trained(ToyStage(config, mious=mious), setting_of(tmp_path))
    assert [row.step for row in history.rows] == [1, 2, 3, 4]
    assert history.best is not None
    assert history.best.step == 2


def test_one_that_ended_early_is_not_trained_again(tmp_path: Path) -> None:
    config = toy_config(validate_every=1, patience=1)
    trained(ToyStage(config, mious=(0.5, 0.4)), setting_of(tmp_path))
    again = ToyStage(config, mious=(0.5, 0.4))
    trained(again, setting_of(tmp_path))
    assert again.drawn == []


def test_afterwards_the_network_is_frozen_and_in_evaluation_mode(tmp_path: Path) -> None:
    stage = ToyStage(toy_config())
    trained(stage, setting_of(tmp_path))
    assert not stage.learned.training
    assert not any(p.requires_grad for p in stage.learned.parameters())


class HalfFrozen(ToyStage):
    """A stage whose network has a frozen part, with dropout and batch normalisation."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        frozen = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.9)).requires_grad_(False)
        self.learned = nn.Sequential(frozen, *self.learned.children())
        self.modes: list[tuple[bool, ...]] = []

    def loss(self, batch: Any, step: int) -> Tensor:
        """The toy's loss; the modes of all layers are noted."""
        self.modes.append(tuple(one.training for one in self.learned.modules()))
        return super().loss(batch, step)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_a_network_has_frozen_is_not_trained(tmp_path: Path, optimizer: str) -> None:
    stage = HalfFrozen(toy_config(optimizer=optimizer, average=0.9, weight_decay=0.5))
    before = {key: tensor.clone() for key, tensor in stage.learned.state_dict().items()}
    held = make_optimizer(stage.learned, stage.config).param_groups[0]["params"]
    assert len(held) == len(list(stage.learned.parameters())) - 2
    _, after = trained(stage, setting_of(tmp_path))
    changed = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert changed == {key for key in before if not key.startswith("0.")}
    top, whole, norm, dropout, *others = stage.modes[0]
    assert (top, whole, norm, dropout) == (True, False, False, False)
    assert all(others)


def test_it_learns(tmp_path: Path) -> None:
    history, _ = trained(ToyStage(toy_config(steps=120, batch=16), plain=True), setting_of(tmp_path))
    assert history.rows[-1].loss < history.rows[0].loss / 10


class Diverging(ToyStage):
    """Its loss is no number from some step on."""

    def loss(self, batch: Tensor, step: int) -> Tensor:
        """NaN at step 5."""
        return super().loss(batch, step) * (float("nan") if step == 5 else 1)


def test_a_loss_that_is_no_number_ends_it_with_the_step(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"toy: the loss is nan at step 5; lower learning_rate \(now 0\.05\)"):
        Loop(Diverging(toy_config()), setting_of(tmp_path)).run()


def test_what_was_before_it_is_kept(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        Loop(Diverging(toy_config()), setting_of(tmp_path)).run()
    saved = torch.load(tmp_path / "toy.ckpt", weights_only=True)
    assert saved["step"] == 4


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    trained(ToyStage(toy_config()), setting_of(tmp_path))
    with pytest.raises(TrainingError, match="another configuration or other data"):
        Loop(ToyStage(toy_config()), setting_of(tmp_path, fingerprint="another")).run()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    trained(ToyStage(toy_config()), setting_of(tmp_path))
    (tmp_path / "toy.ckpt").write_bytes((tmp_path / "toy.ckpt").read_bytes()[:1000])
    with pytest.raises(TrainingError, match="is damaged"):
        Loop(ToyStage(toy_config()), setting_of(tmp_path)).run()


def test_dropout_is_the_same_each_time_and_another_for_another_seed(tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> dict[str, Tensor]:
        return trained(ToyStage(toy_config()), setting_of(tmp_path, checkpoint=tmp_path / name, seed=seed))[1]

    torch.manual_seed(1)
    first = weights("a", 5)
    torch.manual_seed(2)
    assert same(first, weights("b", 5))
    assert not same(first, weights("c", 6))


def test_the_loop_leaves_the_random_numbers_of_others_alone(tmp_path: Path) -> None:
    stage = ToyStage(toy_config())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    trained(stage, setting_of(tmp_path))
    assert torch.equal(before, torch.get_rng_state())


class FailingToDraw(ToyStage):
    """One of its batches cannot be read."""

    def draw(self, step: int, mine: range) -> Tensor:
        """Fails at step 4."""
        if step == 4:
            raise TrainingError("row 7 cannot be read")
        return super().draw(step, mine)


def test_what_goes_wrong_in_drawing_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="row 7 cannot be read"):
        Loop(FailingToDraw(toy_config()), setting_of(tmp_path)).run()


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 10, 11, 12, 100])
@pytest.mark.parametrize("schedule", ["one_cycle", "poly", "steps"])
def test_a_schedule_of_any_length_stays_between_0_and_the_highest(schedule: str, steps: int) -> None:
    config = toy_config(schedule=schedule, steps=steps, learning_rate=0.5)
    optimizer = make_optimizer(nn.Linear(1, 1), config)
    plan = make_schedule(optimizer, config)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    assert min(rates) > 0
    assert max(rates) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("poly", [0.5 * (1 - step / 10) ** 0.9 for step in range(10)]),
        ("steps", [0.5 * 0.1 ** (step // 2) for step in range(10)]),
    ],
)
def test_published_schedules_are_as_published(schedule: str, expected: list[float]) -> None:
    config = toy_config(schedule=schedule, steps=10, learning_rate=0.5)
    optimizer = make_optimizer(nn.Linear(1, 1), config)
    plan = make_schedule(optimizer, config)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    assert rates == pytest.approx(expected)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    free, clipped = (
        trained(
            ToyStage(toy_config(optimizer="sgd", clip=clip, steps=1), plain=True),
            setting_of(tmp_path, checkpoint=tmp_path / f"{clip}"),
        )[1]
        for clip in (0.0, 1e-3)
    )
    start = ToyStage(toy_config(), plain=True).learned.state_dict()
    moved = [sum((state[k] - start[k]).abs().sum().item() for k in start) for state in (free, clipped)]
    assert moved[1] < moved[0] / 10


def fail_while_evaluating(module: nn.Module) -> None:
    with evaluating(module):
        assert not module.training
        raise Stopped


def test_evaluating_is_left_by_an_error_too() -> None:
    module = nn.Linear(1, 1)
    with pytest.raises(Stopped):
        fail_while_evaluating(module)
    assert module.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_named_is_taken(precision: str) -> None:
    assert resolve_training_precision(precision, torch.device("cpu")) == precision


def test_half_precision_on_a_processor_is_refused() -> None:
    with pytest.raises(TrainingError, match="fp16 needs a CUDA device"):
        resolve_training_precision("fp16", torch.device("cpu"))


def test_auto_on_a_processor_is_never_half_precision() -> None:
    assert resolve_training_precision("auto", torch.device("cpu")) in ("fp32", "bf16")


def test_kept_weights_are_the_moving_average_of_those_of_every_step(tmp_path: Path) -> None:
    stage, decay, seen = ToyStage(toy_config(average=0.9, validate_every=100)), 0.9, []

    def remember(name: str, row: Row, steps: int) -> None:
        if row.miou is None:
            seen.append({key: tensor.clone() for key, tensor in stage.learned.state_dict().items()})

    Loop(stage, setting_of(tmp_path, notify=remember)).run()
    expected = seen[0]
    for weights in seen[1:]:
        expected = {key: decay * expected[key] + (1 - decay) * weights[key] for key in expected}
    kept = stage.learned.state_dict()
    for key in (key for key, tensor in kept.items() if tensor.is_floating_point()):
        torch.testing.assert_close(kept[key], expected[key])
    assert not all(torch.equal(kept[key], seen[-1][key]) for key in kept)


def test_weights_of_early_steps_are_not_kept(tmp_path: Path) -> None:
    stage = ToyStage(toy_config(keep_from=0.6, validate_every=1))
    history = Loop(stage, setting_of(tmp_path)).run()
    assert history.best is not None
    assert history.best.step >= 0.6 * stage.config.steps
    assert len(history.validations) == stage.config.steps


def test_a_loss_that_is_read_late_changes_neither_weights_nor_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(checkpoint_every=3)
    at_once, weights = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "at_once.ckpt"))
    monkeypatch.setattr(loop, "reads_losses_late", lambda device: True)
    late, same = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "late.ckpt"))
    assert [(row.step, row.loss, row.miou) for row in late.rows] == [(r.step, r.loss, r.miou) for r in at_once.rows]
    for key, tensor in weights.items():
        assert torch.equal(same[key], tensor)


def test_a_loss_that_is_no_number_and_read_late_names_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "reads_losses_late", lambda device: True)
    stage = ToyStage(toy_config(validate_every=100, checkpoint_every=100))
    own = stage.loss
    monkeypatch.setattr(stage, "loss", lambda batch, step: own(batch, step) * (float("nan") if step == 2 else 1.0))
    with pytest.raises(TrainingError, match=r"the loss is nan at step 2"):
        Loop(stage, setting_of(tmp_path)).run()
    assert not (tmp_path / "toy.ckpt").exists()


@pytest.mark.parametrize("threads", [2, 4])
def test_batches_drawn_by_several_threads_train_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    config = toy_config()
    _, weights = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "one.ckpt"))
    monkeypatch.setattr(drawing, "drawing_threads", lambda device: threads)
    _, same = trained(ToyStage(config), setting_of(tmp_path, checkpoint=tmp_path / "several.ckpt"))
    for key, tensor in weights.items():
        assert torch.equal(same[key], tensor)
