"""Stage 1: the backbone learns every scale at once, on augmented crops."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsi_magnet.magnet.step import without_margin
from wsi_magnet.methods.losses import allowed_classes, pixel_weights, set_loss
from wsi_magnet.nets.network import Normalisation
from wsi_magnet.nets.registry import network_info
from wsi_magnet.train.augment import draw_augmentation
from wsi_magnet.train.config import TrainingConfig
from wsi_magnet.train.glass import narrowed
from wsi_magnet.train.loop import Setting
from wsi_magnet.train.optimizer import Encoder
from wsi_magnet.train.sampler import box_round, jitter
from wsi_magnet.train.score import ConfusionCounts
from wsi_magnet.train.views import StageData, to_sets, to_tensor

log = logging.getLogger(__name__)

STAGE_SEED = 1


@dataclass(frozen=True, eq=False)
class Crops:
    """One process's part of a batch."""

    images: npt.NDArray[np.uint8]
    """uint8 (N, H, W, 3), RGB."""
    sets: npt.NDArray[np.uint32]
    """uint32 (N, H, W)."""


@dataclass(frozen=True, eq=False)
class DrawCrops:
    """Draws the items of a batch, each a function of seed, step and place in the batch; small and picklable."""

    training: TrainingConfig
    data: StageData
    """Without views."""

    def __call__(self, step: int, mine: range) -> Crops:
        """Items `mine` of a step's batch."""
        crops = [self._crop(np.random.default_rng([self.training.seed, STAGE_SEED, step, i])) for i in mine]
        images, sets = zip(*crops, strict=True)
        return Crops(np.stack(images), np.stack(sets))

    def _crop(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        config, own = self.training, self.training.backbone
        shares = np.array(own.scale_shares or [1.0] * len(config.mpps))
        location = self.data.sampler.draw(rng)
        mpp = float(rng.choice(config.mpps, p=shares / shares.sum()))
        opened = self.data.pool.get(location.sample)
        scale = opened.scale(jitter(mpp, config.augment.scale_jitter, rng))
        box = box_round(location.centre_xy, scale, own.crop_px, rng)
        background = self.data.background
        augmentation = draw_augmentation(config.augment, rng, extent_um=own.crop_px * mpp, background=background)
        image = opened.image(scale, box)
        sets = narrowed(opened.sets(scale, box, rng), image, mpp, background, opened.ignored)
        return augmentation.image(image, mpp), augmentation.labels(sets, opened.ignored, mpp)


class BackboneStage:
    """A `loop.Stage`."""

    name = "backbone"

    def __init__(
        self,
        network: nn.Module,
        config: TrainingConfig,
        data: StageData,
        setting: Setting,
        normalisation: Normalisation | None = None,
    ) -> None:
        """normalisation: that of the pixels; the network's own by default."""
        self.learned = network.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = config.backbone
        self._training, self._data, self._setting = config, data, setting
        self._info = network_info(config.backbone.network)
        self._normalisation = normalisation or Normalisation(self._info.mean, self._info.std)
        layers = self._info.encoder_of(network) if self.config.encoder_learning_rate != 1 else ()
        self.encoder = Encoder(layers, self.config.encoder_learning_rate)
        self.draw = DrawCrops(config, data.without_views())

    def loss(self, batch: Crops, step: int) -> Tensor:
        """The set loss; with an auxiliary head, that of both."""
        images = to_tensor(batch.images, self._setting.device, self._normalisation)
        sets = to_sets(batch.sets, self._setting.device)
        with self._setting.autocast():
            if not hasattr(self.learned, "heads"):
                return set_loss(self.learned(images), sets, self._data.weights)
            main, auxiliary = self.learned.heads(images)
        weight = self.config.auxiliary
        return set_loss(main, sets, self._data.weights) + weight * set_loss(auxiliary, sets, self._data.weights)

    def losses(self, batch: Crops, step: int) -> Iterator[Tensor]:
        """Losses of batches that are accumulated, each by its share of the labelled pixels: their sum is the loss of
        all crops at once, but for batch normalisation, which sees one of them at a time.
        """
        if self.config.accumulate == 1:
            yield self.loss(batch, step)
            return
        split = (np.split(one, self.config.accumulate) for one in (batch.images, batch.sets))
        parts = [Crops(images, sets) for images, sets in zip(*split, strict=True)]
        labelled = torch.stack([self._labelled(part) for part in parts])
        for part, share in zip(parts, labelled / labelled.sum().clamp(min=1e-9), strict=True):
            yield self.loss(part, step) * share.float()

    def _labelled(self, batch: Crops) -> Tensor:
        """Labelled pixels, weighed as in the loss, a float64 scalar."""
        allowed = allowed_classes(to_sets(batch.sets, self._setting.device), len(self._training.classes))
        return pixel_weights(allowed, self._data.weights).sum(dtype=torch.float64)

    def validate(self) -> float:
        """The mean of all scales' mIoU."""
        mious = self.validate_scales()
        log.info("backbone: mIoU of each scale, coarse to fine: %s", ", ".join(f"{100 * one:.1f}" for one in mious))
        return float(np.mean(mious))

    def validate_scales(self) -> list[float]:
        """MIoU of each scale by itself, coarse to fine."""
        scorers = [ConfusionCounts(self._data.part_of) for _ in self._training.mpps]
        for done, view in enumerate(self._data.views):
            self._setting.validated(done, len(self._data.views))
            for scale, scorer in enumerate(scorers):
                self._setting.stop.check()
                x = to_tensor([view.patches[scale]], self._setting.device, self._normalisation)
                with self._setting.autocast():
                    logits = self._info.logits(self.learned, x, len(self._training.classes))
                scorer.add(
                    without_margin(logits.float().softmax(dim=1), self._data.windows.halo_at(scale)), view.sets[scale]
                )
        self._setting.validated(len(self._data.views), len(self._data.views))
        return [scorer.miou for scorer in scorers]
