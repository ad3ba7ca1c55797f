"""Training loop of all stages: draw, descend, validate, save.

A step depends on the seed and its number alone, and a checkpoint holds everything that a step changes, so that a killed
training resumes as if it had not been killed: on a CPU, with the same number of threads, to the same weights. Ctrl-C
and SIGTERM abandon the step or the validation in progress, which is repeated when the training resumes.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from wsi_magnet.errors import TrainingError
from wsi_magnet.system import computes_bf16
from wsi_magnet.train.checkpoint import load_checkpoint, save_checkpoint
from wsi_magnet.train.config import StageConfig
from wsi_magnet.train.data_parallel import Ranks
from wsi_magnet.train.drawing import Draw, prefetched_batches
from wsi_magnet.train.history import History, Row, Watcher, progress_of
from wsi_magnet.train.optimizer import Encoder, make_optimizer, make_schedule, trained_parameters
from wsi_magnet.train.stopping import StopRequest, StopTraining
from wsi_magnet.train.weights import LearnedWeights, MovingAverage

log = logging.getLogger(__name__)

LARGEST_SEED = 2**63 - 1

LEAST_SCALE = 2.0**-10
"""Smallest scale of a loss in fp16. It starts at 2**16 and is halved with each overflow: a training has a few."""

Batch = TypeVar("Batch")


class Stage(Protocol[Batch]):
    """Stage of a training, as the loop uses it."""

    name: str

    @property
    def learned(self) -> nn.Module:
        """The module whose weights the stage learns."""
        ...

    @property
    def config(self) -> StageConfig:
        """Number of steps, batch size, learning rate."""
        ...

    @property
    def draw(self) -> Draw[Batch]:
        """Callable of other threads; with loaders it is sent to other processes."""
        ...

    def loss(self, batch: Batch, step: int) -> Tensor:
        """The loss to minimise, a float32 scalar."""
        ...

    def validate(self) -> float:
        """MIoU on the validation rows, 0 to 1; leaves the weights as they are. Raises StopTraining between views."""
        ...


@runtime_checkable
class Accumulating(Protocol):
    """A stage whose loss has several parts."""

    def losses(self, batch: Any, step: int) -> Iterator[Tensor]:
        """Parts of the loss, whose sum is minimised; each is differentiated before the next is computed."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """Environment of a stage: processes, device, precision, files. Results do not depend on it, except for rounding."""

    ranks: Ranks
    device: torch.device
    precision: str
    seed: int
    checkpoint: Path
    fingerprint: str
    """Fingerprint of configuration and data: a checkpoint with another one is refused."""
    notify: Watcher
    """Callback with each row of the history, and with each view of a validation."""
    stop: StopRequest = field(default_factory=StopRequest)
    """The request that ends the stage early; asked between two views of a validation."""
    loaders: int = 0
    """Number of processes that draw batches; 0 for threads of this one."""

    def validated(self, done: int, views: int) -> None:
        """Notify of finished views of a validation. Raises StopTraining if the training is to stop."""
        self.stop.check()
        if self.ranks.first:
            progress_of("validation", self.notify)(done, views)

    def autocast(self) -> Any:
        """Autocast context of the networks' precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)


class Loop(Generic[Batch]):
    """The loop of one stage."""

    def __init__(self, stage: Stage[Batch], setting: Setting, encoder: Encoder | None = None) -> None:
        """encoder: layers of the learned module with a learning rate of their own."""
        self._stage, self._setting, self._encoder = stage, setting, encoder or Encoder()
        config = stage.config
        self._encoder.keep_frozen()
        self._optimizer = make_optimizer(stage.learned, config, self._encoder)
        self._schedule = make_schedule(self._optimizer, config)
        self._scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.precision == "fp16")
        self._history = History(kept_from=round(config.keep_from * config.steps))
        self._learned = LearnedWeights(stage.learned)
        self._average = MovingAverage(self._learned, config.average)
        self._best: dict[str, Tensor] | None = None
        self._step = 0
        self._validation_due = False
        """True between the last step before a validation and its end."""
        self._unread: tuple[Row, Tensor] | None = None
        """The last step's row, and its loss on the device; see `_learn`."""

    def run(self) -> History:
        """Train to the last step, or until mIoU stops improving; the stage then has its best weights, in evaluation
        mode.

        Raises TrainingError if the loss is not finite, or the checkpoint belongs to another training.
        """
        self._resume()
        stage, config, ranks = self._stage, self._stage.config, self._setting.ranks
        if self._validation_due or (not self._history.stale(config.patience) and self._step < config.steps):
            # Several processes would receive a signal at different steps: they end at once, as if killed.
            with self._setting.stop.on_signals(stage.name) if ranks.world == 1 else nullcontext():
                self._train()
        if self._best is not None:
            self._learned.load(self._best)
        ranks.share(self._learned.state().values())  # only the first has kept the best
        stage.learned.eval().requires_grad_(False)
        return self._history

    def _train(self) -> None:
        """Take steps to the last one, until mIoU stops improving, or until there is a request to stop."""
        batches = self._batches()
        try:
            while self._validation_due or self._step < self._stage.config.steps:
                if not self._validation_due:
                    with self._setting.stop.interruptible():
                        batch = next(batches)
                    self._learn(batch)
                if self._check_step():
                    break
            self._read_loss()
        except StopTraining:
            self._save()
        finally:
            batches.close()

    def _check_step(self) -> bool:
        """Validate and save after a step, where that is due; True where mIoU has stopped improving."""
        config, ranks = self._stage.config, self._setting.ranks
        due = self._step % config.validate_every == 0 or self._step == config.steps
        if due:
            self._validation_due = True
            self._validate()
            self._validation_due = False
        converged = ranks.agree(self._history.stale(config.patience)) if due else False
        if self._step % config.checkpoint_every == 0 or due:
            self._save()
        if converged:
            log.info("%s ended at step %d: no better in %d validations", self._stage.name, self._step, config.patience)
        self._setting.stop.check()
        return converged

    def _batches(self) -> Generator[Batch]:
        """Batches from the next step on."""
        stage, config, setting = self._stage, self._stage.config, self._setting
        steps, mine = range(self._step, config.steps), setting.ranks.mine(config.items)
        return prefetched_batches(stage.draw, steps, mine, setting.device, setting.loaders)

    def _learn(self, batch: Batch) -> None:
        """Take a step; one that is abandoned leaves everything as it was before."""
        stage, began = self._stage, time.perf_counter()
        set_training(stage.learned)
        self._encoder.keep_frozen()
        before = [buffer.clone() for buffer in stage.learned.buffers()]
        try:
            with self._setting.stop.interruptible(), torch.random.fork_rng(devices=[]):
                torch.manual_seed((self._setting.seed * 1_000_003 + self._step) % LARGEST_SEED)  # for dropout
                self._optimizer.zero_grad(set_to_none=True)
                loss = self._differentiate(batch)
        except StopTraining:
            for buffer, value in zip(stage.learned.buffers(), before, strict=True):
                buffer.copy_(value)
            raise
        self._descend()
        self._read_loss()
        self._step += 1
        rate = self._optimizer.param_groups[0]["lr"]
        self._unread = Row(self._step, nan, rate, None, time.perf_counter() - began), loss
        if not reads_losses_late(self._setting.device):
            self._read_loss()

    def _differentiate(self, batch: Batch) -> Tensor:
        """The loss; its gradients are added up part by part, so that one part is in memory at a time."""
        stage, total = self._stage, None
        if isinstance(stage, Accumulating):
            parts = stage.losses(batch, self._step)
        else:
            parts = iter([stage.loss(batch, self._step)])
        for part in parts:
            self._scaler.scale(part).backward()
            total = part.detach() if total is None else total + part.detach()
        assert total is not None
        return total

    def _read_loss(self) -> None:
        """Record the last step's loss. Raises TrainingError where it is not finite.

        On a GPU the loss is read a step late, or before a validation or a checkpoint: reading it at once would leave
        the GPU idle while Python prepares the next step.
        """
        if self._unread is None:
            return
        (row, loss), self._unread = self._unread, None
        value = loss.item()
        if not isfinite(value):
            raise TrainingError(
                f"{self._stage.name}: the loss is {value} at step {row.step - 1}; "
                f"lower learning_rate (now {self._stage.config.learning_rate:g}) and start again with --restart"
            )
        self._notify(replace(row, loss=value))

    def _descend(self) -> None:
        """Change the weights by the gradients."""
        parameters = trained_parameters(self._stage.learned)
        # Averaged before the check for infinity, so that all processes skip the same steps.
        self._setting.ranks.average_gradients(parameters)
        self._scaler.unscale_(self._optimizer)
        if self._stage.config.clip:
            nn.utils.clip_grad_norm_(parameters, self._stage.config.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._average.update()
        if self._step or not self._scaler.is_enabled():
            self._schedule.step()
            return
        with warnings.catch_warnings():
            # Where the first step is left out since its gradients overflow, PyTorch believes it to come afterwards.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self._schedule.step()

    def _check_scale(self) -> None:
        """Raises TrainingError where gradients in fp16 overflow however small the loss is made."""
        if self._scaler.is_enabled() and (scale := self._scaler.get_scale()) < LEAST_SCALE:
            raise TrainingError(
                f"{self._stage.name}: gradients in fp16 overflow at step {self._step}, with the loss times {scale:g}; "
                "set precision to bf16 or fp32, or lower learning_rate, and start again with --restart"
            )

    def _validate(self) -> None:
        """Validate, and keep the best weights so far."""
        self._read_loss()
        self._check_scale()
        for statistics in (self._stage.learned.buffers(), self._average.statistics()):
            self._setting.ranks.average_statistics(statistics)
        if not self._setting.ranks.first:
            return
        averaged, began = self._average.copy(), time.perf_counter()
        with self._learned.replaced(averaged), evaluating(self._stage.learned), torch.no_grad():
            miou = self._stage.validate()
        if self._history.is_best(self._step, miou):
            self._best = averaged
        last = self._history.rows[-1]
        seconds = last.seconds + time.perf_counter() - began
        self._history.rows[-1] = Row(last.step, last.loss, last.learning_rate, miou, seconds)
        self._setting.notify(self._stage.name, self._history.rows[-1], self._stage.config.steps)

    def _notify(self, row: Row) -> None:
        self._history.rows.append(row)
        if self._setting.ranks.first:
            self._setting.notify(self._stage.name, row, self._stage.config.steps)

    def _parts(self) -> dict[str, Any]:
        return {
            "optimizer": self._optimizer,
            "schedule": self._schedule,
            "average": self._average,
            "scaler": self._scaler,
        }

    def _save(self) -> None:
        self._read_loss()
        if not self._setting.ranks.first:
            return
        states = {name: part.state_dict() for name, part in self._parts().items()}
        states["learned"] = self._learned.state()
        more: dict[str, Any] = {"step": self._step, "best": self._best, "history": self._history.to_json()}
        more["validation_due"] = self._validation_due
        more["frozen"] = self._learned.frozen_digest()
        save_checkpoint(self._setting.checkpoint, {**states, **more}, self._setting.fingerprint)

    def _resume(self) -> None:
        saved = load_checkpoint(self._setting.checkpoint, self._setting.fingerprint)
        if saved is None:
            return
        if saved.get("frozen", "") != self._learned.frozen_digest():
            raise TrainingError(
                f"checkpoint {self._setting.checkpoint}: the network's frozen weights were others when it was written; "
                "start again with --restart"
            )
        self._learned.load(saved["learned"])
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self._step, self._best = int(saved["step"]), saved["best"]
        self._validation_due = bool(saved.get("validation_due", False))
        self._history = History.from_json(saved["history"], self._history.kept_from)
        log.info("%s resumes from step %d of %d", self._stage.name, self._step, self._stage.config.steps)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Context in which a module is in evaluation mode."""
    module.eval()
    try:
        yield
    finally:
        module.train()


def set_training(module: nn.Module) -> None:
    """Set training mode, except in layers whose parameters are all frozen: no dropout and no batch statistics there."""
    module.train()
    if all(one.requires_grad for one in module.parameters()):
        return
    for layer in module.modules():
        parameters = list(layer.parameters())
        if parameters and not any(one.requires_grad for one in parameters):
            layer.eval()


def reads_losses_late(device: torch.device) -> bool:
    """True where reading a loss at once would hold up the device."""
    return device.type != "cpu"


def resolve_training_precision(precision: str, device: torch.device) -> str:
    """Resolve "auto": bf16 where the device computes it natively, else fp32 on CPU and fp16 on CUDA."""
    if precision == "fp16" and device.type == "cpu":
        raise TrainingError("precision fp16 needs a CUDA device; on CPU use fp32 or bf16")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # mkldnn computes bf16 on other CPUs too, but slower than fp32.
    return "bf16" if computes_bf16() else "fp32"
