"""Stage 2: the refinement modules learn on the outputs of a frozen backbone.

O: the backbone's prediction at a scale; Y: the merged result of the coarser scales. As published, Y in training is
always the coarsest scale's own prediction (A8 of the published program), while at run time it is the modules' own
output, scale upon scale. "cumulative" closes that gap: at first Y is the coarser prediction as it is, and with training
progress more and more often the output of the modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from wsi_magnet.magnet.selection import select_threshold
from wsi_magnet.magnet.step import magnet_step, refine_patch, uses_rgb
from wsi_magnet.magnet.uncertainty import query_score
from wsi_magnet.methods.losses import choice_loss, guided_loss, hard_loss
from wsi_magnet.nets.gate import GateModule
from wsi_magnet.train.config import TrainingConfig
from wsi_magnet.train.frozen_backbone import FrozenBackbone, double
from wsi_magnet.train.loop import Setting, evaluating
from wsi_magnet.train.score import ConfusionCounts
from wsi_magnet.train.views import DrawViews, StageData, View, Windows, to_sets

STAGE_SEED = 2
CROP_SEED = 3
MAX_THRESHOLD = 0.3
"""Greatest threshold drawn in training; the real ones are fitted after this stage."""


class RefinerStage:
    """A `loop.Stage`."""

    name = "refiners"

    def __init__(
        self,
        modules: nn.ModuleList,
        config: TrainingConfig,
        data: StageData,
        frozen: FrozenBackbone,
        setting: Setting,
    ) -> None:
        """modules: one, shared by all steps up the ladder, or one a step."""
        self.learned = modules.to(setting.device)
        self.config = config.refiners
        for module in modules.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = self.config.statistics_momentum
        self._training, self._data, self._setting = config, data, setting
        self._windows = Windows(config.refiners.window_px, config.halo_px, config.mpps)
        self._frozen = replace(frozen, windows=self._windows)
        augment = config.refiners.augment or config.augment
        self.draw = DrawViews(data.without_views(), self._windows, augment, (config.seed, STAGE_SEED))
        # The backbone is frozen, so its outputs on the validation views are computed once.
        self._backbone_outputs = [frozen.probabilities(view) for view in data.views]

    def loss(self, batch: list[View], step: int) -> Tensor:
        """The mean over views and scales."""
        losses = [
            self._view_loss(view, np.random.default_rng([self._training.seed, CROP_SEED, step, i]), step)
            for i, view in zip(self._setting.ranks.mine(self.config.batch), batch, strict=True)
        ]
        return torch.stack(losses).mean()

    def _view_loss(self, view: View, rng: np.random.Generator, step: int) -> Tensor:
        """Mean loss of all modules on crops of one view, scale after scale as in a run."""
        outputs, total = self._frozen.probabilities(view), torch.zeros((), device=self._setting.device)
        cumulative = outputs[0]
        for scale in range(1, len(outputs)):
            inputs = self._inputs(view, outputs[scale], cumulative, scale)
            sets = to_sets([view.sets[scale]], self._setting.device)
            crops = self._crops({**inputs, "sets": sets}, rng)
            total = total + self._crop_loss(crops.pop("sets"), crops, scale)
            cumulative = self._next_coarse(inputs, scale, rng, step)
        return total / (len(outputs) - 1)

    def _inputs(self, view: View, fine: Tensor, before: Tensor, scale: int) -> dict[str, Tensor]:
        """Maps that the module of a scale takes, by name. before: Y after the scale before."""
        maps = {"fine": fine, "coarse": double(before)}
        return {**maps, "rgb": self._frozen.rgb(view, scale)} if uses_rgb(self._module(scale)) else maps

    def _module(self, scale: int) -> nn.Module:
        return self.learned[0 if self.config.shared else scale - 1]

    def _crop_loss(self, sets: Tensor, inputs: Mapping[str, Tensor], scale: int) -> Tensor:
        module = self._module(scale)
        if not self.config.choice_weight:
            with self._setting.autocast():
                logits = module(**inputs)
            return self._loss(logits, sets, inputs["coarse"])
        assert isinstance(module, GateModule)
        with self._setting.autocast():
            logits, choice = module.with_choice(**inputs)
        chosen = choice_loss(choice, sets, fine=inputs["fine"], coarse=inputs["coarse"])
        return self._loss(logits, sets, inputs["coarse"]) + self.config.choice_weight * chosen

    def _loss(self, logits: Tensor, sets: Tensor, coarse: Tensor) -> Tensor:
        if self.config.loss == "ohem":
            return hard_loss(logits, sets, below=self.config.ohem_below, kept=self.config.ohem_kept)
        return guided_loss(logits, sets, coarse, self._data.weights)

    def _crops(self, maps: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Crops of all maps at the same places: (1, ..., w, w) each to (N, ..., s, s)."""
        whole = next(iter(maps.values())).shape[-1]
        side = min(self.config.crop_px, whole)
        corners = rng.integers(whole - side + 1, size=(self.config.crops, 2))
        if side == whole:
            corners = corners[:1]  # they would all be the same
        cut = [np.s_[..., y : y + side, x : x + side] for y, x in corners]
        return {name: torch.cat([one[place] for place in cut]) for name, one in maps.items()}

    @torch.no_grad()
    def _next_coarse(self, inputs: Mapping[str, Tensor], scale: int, rng: np.random.Generator, step: int) -> Tensor:
        """Y for the next scale. inputs: of the module of this scale, by name."""
        use_own_output = self.config.input == "cumulative" and rng.random() < 2 * step / self.config.steps
        above = rng.uniform(0, MAX_THRESHOLD)
        if not use_own_output or scale == len(self._training.mpps) - 1:
            return inputs["coarse"]
        with evaluating(self._module(scale)):
            return self.merge(inputs, scale=scale, above=above)

    def merge(self, inputs: Mapping[str, Tensor], *, scale: int, above: float) -> Tensor:
        """One MagNet step: the new Y, float32 (1, C, H, W). inputs: of the module of the scale, by name."""
        fine, coarse = inputs["fine"], inputs["coarse"]
        with self._setting.autocast():
            refined = refine_patch(**inputs, refiner=self._module(scale))
        grid_hw = (fine.shape[-2] >> scale, fine.shape[-1] >> scale)
        score = query_score(coarse=coarse, refined=refined, grid_hw=grid_hw, median_px=self._training.median_px)
        return magnet_step(coarse=coarse, refined=refined, selected=select_threshold(score, above))

    def validate(self) -> float:
        """MIoU at the finest scale with every pixel refined."""
        scorer = ConfusionCounts(self._data.part_of)
        views = self._data.views
        for done, (view, outputs) in enumerate(zip(views, self._backbone_outputs, strict=True)):
            self._setting.validated(done, len(views))
            cumulative = outputs[0]
            for scale in range(1, len(outputs)):
                self._setting.stop.check()
                inputs = self._inputs(view, outputs[scale], cumulative, scale)
                cumulative = self.merge(inputs, scale=scale, above=0.0)
            scorer.add(cumulative, view.sets[-1])
        self._setting.validated(len(views), len(views))
        return scorer.miou
