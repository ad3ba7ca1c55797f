"""Optimizer and learning rate schedule of a stage, and layers that learn more slowly than the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wsi_magnet.train.config import StageConfig

SHORTEST_CYCLE = 11
"""Steps of which a tenth is still more than one: torch's one-cycle schedule divides by zero for fewer."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Layers of a module with a learning rate of their own; by default none."""

    layers: tuple[nn.Module, ...] = ()
    factor: float = 1.0
    """Share of the stage's learning rate, 0 to 1; 0 freezes the layers."""

    def keep_frozen(self) -> None:
        """Put the layers into evaluation mode, without gradients, if they are frozen."""
        if not self.factor:
            for layer in self.layers:
                layer.eval().requires_grad_(False)

    def groups(self, module: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
        """Parameters of the whole module that are trained, by learning rate, the layers' last."""
        own = {id(p) for layer in self.layers for p in layer.parameters()} if self.factor != 1 else set()
        trained = trained_parameters(module)
        rest, slow = [p for p in trained if id(p) not in own], [p for p in trained if id(p) in own]
        found = [{"params": rest, "lr": learning_rate}]
        return [*found, {"params": slow, "lr": learning_rate * self.factor}] if slow else found


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that are trained: those that the network has not frozen by `requires_grad_(False)`."""
    return [one for one in module.parameters() if one.requires_grad]


def make_optimizer(module: nn.Module, config: StageConfig, encoder: Encoder = Encoder()) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum, of the parameters that are trained."""
    groups = encoder.groups(module, config.learning_rate)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, config: StageConfig) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rate schedule, of each group in proportion."""
    schedules = torch.optim.lr_scheduler
    if config.schedule == "one_cycle":
        # Momentum is left alone, so that SGD and AdamW are scheduled alike.
        return schedules.OneCycleLR(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            total_steps=max(config.steps, SHORTEST_CYCLE),
            pct_start=0.1,
            cycle_momentum=False,
        )
    if config.schedule == "poly":
        return schedules.PolynomialLR(optimizer, total_iters=config.steps, power=0.9)
    fifth = max(1, config.steps // 5)
    return schedules.MultiStepLR(optimizer, [fifth, 2 * fifth, 3 * fifth, 4 * fifth], gamma=0.1)
