"""Stage 1: the backbone learns every scale at once, on augmented crops.

A step depends on the seed and its number alone, so that a run that was stopped goes on from its checkpoint as if it
had not been.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from first_bundle.config import TrainingConfig
from first_bundle.crops import batch_at
from first_bundle.losses import set_loss
from first_bundle.tiles import N_CLASSES, Tile
from wsi_magnet.nets.small import SmallNet

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 200
BATCHES_AHEAD = 3


def train_backbone(tiles: list[Tile], config: TrainingConfig, checkpoint: Path) -> SmallNet:
    """Train to the last step, going on from `checkpoint` if it exists; the result is in eval mode and frozen."""
    torch.manual_seed(config.seed)
    network = SmallNet(N_CLASSES, config.backbone.width)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in torch, not in its annotations
    optimizer, schedule = one_cycle(
        network, config.backbone.steps, config.backbone.learning_rate, config.backbone.weight_decay
    )
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    first = resume(checkpoint, parts)
    network.train()
    with ThreadPoolExecutor(1) as pool:
        steps = range(first, config.backbone.steps)
        ahead = [pool.submit(batch_at, tiles, config, step) for step in steps[:BATCHES_AHEAD]]
        for step in steps:
            images, sets = ahead.pop(0).result()
            if step + BATCHES_AHEAD < config.backbone.steps:
                ahead.append(pool.submit(batch_at, tiles, config, step + BATCHES_AHEAD))
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images.contiguous(memory_format=torch.channels_last))
            loss = set_loss(logits, sets)
            descend(loss, network, optimizer)
            schedule.step()
            if (step + 1) % CHECKPOINT_EVERY == 0:
                save(checkpoint, parts, step + 1)
            if step % 50 == 0:
                log.info("backbone step %d of %d: loss %.4f", step, config.backbone.steps, loss.item())
    save(checkpoint, parts, config.backbone.steps)
    network.eval().requires_grad_(False)
    return network


def one_cycle(
    module: nn.Module, steps: int, learning_rate: float, weight_decay: float
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
    """AdamW, its learning rate rising for a tenth of the steps and falling to nothing after."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    return optimizer, schedule


def descend(loss: torch.Tensor, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step downhill, the gradient's length bounded."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 5.0)
    optimizer.step()


def save(path: Path, parts: dict[str, object], step: int) -> None:
    """Write all states and the number of steps done, whole or not at all."""
    states = {name: part.state_dict() for name, part in parts.items()}  # type: ignore[attr-defined]
    torch.save({"step": step, **states}, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def resume(path: Path, parts: dict[str, object]) -> int:
    """Load the states saved there, if any; returns the number of steps done."""
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])  # type: ignore[attr-defined]
    log.info("going on from %s, step %d", path, saved["step"])
    return int(saved["step"])
