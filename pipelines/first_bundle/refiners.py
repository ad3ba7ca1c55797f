"""Stage 2: a refinement module for each step up the ladder, the backbone frozen.

Y is what it will be at run time: the cumulative map. At first it is only the coarser scales' own map, as published;
the more the modules have learned, the more often it is their own work.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from first_bundle.backbone import descend, one_cycle, resume, save
from first_bundle.config import TrainingConfig
from first_bundle.losses import guided_loss
from first_bundle.models import Backbone, double
from first_bundle.tiles import N_CLASSES, Tile
from first_bundle.views import View, draw_view
from wsi_magnet.nets.refiner import RefinementModule
from wsi_magnet.refine.points import select_threshold
from wsi_magnet.refine.step import magnet_step, refine_patch
from wsi_magnet.refine.uncertainty import query_score

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 50
VIEWS_AHEAD = 2
FIRST_STEP = 1_000_000
"""Added to the step in the seed, so that no draw is one of stage 1's."""


def train_refiners(
    tiles: list[Tile], config: TrainingConfig, backbone: Backbone, checkpoint: Path
) -> tuple[RefinementModule, ...]:
    """Train to the last step, going on from `checkpoint` if it exists; the result is in eval mode and frozen."""
    torch.manual_seed(config.seed + 1)
    steps = config.refiners.steps
    modules = tuple(RefinementModule(N_CLASSES) for _ in config.mpps[1:])
    refiners = nn.ModuleList(modules)
    optimizer, schedule = one_cycle(refiners, steps, config.refiners.learning_rate, config.refiners.weight_decay)
    parts = {"refiners": refiners, "optimizer": optimizer, "schedule": schedule}
    first = resume(checkpoint, parts)

    def draw(step: int) -> View:
        return draw_view(tiles, config, backbone, np.random.default_rng([config.seed, FIRST_STEP + step]))

    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(draw, step) for step in range(first, min(first + VIEWS_AHEAD, steps))]
        for step in range(first, steps):
            view = ahead.pop(0).result()
            if step + VIEWS_AHEAD < steps:
                ahead.append(pool.submit(draw, step + VIEWS_AHEAD))
            loss = ladder_loss(view, refiners, config, step)
            descend(loss, refiners, optimizer)
            schedule.step()
            if (step + 1) % CHECKPOINT_EVERY == 0:
                save(checkpoint, parts, step + 1)
            if step % 10 == 0:
                log.info("refiner step %d of %d: loss %.4f", step, steps, loss.item())
    refiners.eval().requires_grad_(False)
    return modules


def ladder_loss(view: View, refiners: nn.ModuleList, config: TrainingConfig, step: int) -> Tensor:
    """The mean loss of all modules on crops of one view, climbing the ladder as a run does."""
    rng = np.random.default_rng([config.seed, 2 * FIRST_STEP + step])
    cumulative, total = view.probabilities[0], torch.zeros(())
    for scale, refiner in enumerate(refiners, start=1):
        fine, coarse = view.probabilities[scale], double(cumulative)
        maps = torch.cat([fine, coarse, view.sets[scale].unsqueeze(1)], dim=1)
        crops = _crops(maps, config.refiners.crops, config.refiners.crop_px, rng)
        fine_crops, coarse_crops, sets = crops.split([N_CLASSES, N_CLASSES, 1], dim=1)
        refiner.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = refiner(fine=fine_crops, coarse=coarse_crops)
        total = total + guided_loss(logits, sets[:, 0].to(torch.uint8), guide=coarse_crops)
        is_last = scale == len(refiners)
        cumulative = coarse if is_last else _climb(fine, coarse, refiner, scale, rng, step / config.refiners.steps)
    return total / len(refiners)


def _crops(maps: Tensor, count: int, size_px: int, rng: np.random.Generator) -> Tensor:
    size_px = min(size_px, maps.shape[-1])
    corners = rng.integers(maps.shape[-1] - size_px + 1, size=(count, 2))
    return torch.cat([maps[..., y : y + size_px, x : x + size_px] for y, x in corners])


@torch.no_grad()
def _climb(
    fine: Tensor, coarse: Tensor, refiner: nn.Module, scale: int, rng: np.random.Generator, progress: float
) -> Tensor:
    if rng.random() > 2 * progress:
        return coarse
    refiner.eval()
    with torch.autocast("cpu", torch.bfloat16):
        refined = refine_patch(fine=fine, coarse=coarse, refiner=refiner)
    grid_hw = (fine.shape[-2] >> scale, fine.shape[-1] >> scale)
    score = query_score(coarse=coarse, refined=refined, grid_hw=grid_hw, median_px=5)
    # The thresholds are fitted after this; a range of them is what the modules must get along with.
    selected = select_threshold(score, rng.uniform(0, 0.3))
    return magnet_step(coarse=coarse, refined=refined, selected=selected)
