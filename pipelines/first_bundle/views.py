"""What the refiners learn from: one augmented tile at every scale, and what the frozen backbone says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from first_bundle.augment import augment
from first_bundle.config import TrainingConfig
from first_bundle.crops import draw_mpp, draw_tile, mirror, normalise, resample
from first_bundle.tiles import Pixels, Tile
from wsi_magnet.geometry import round_up


class Predictor(Protocol):
    """Normalised images to probabilities, at one scale."""

    def __call__(self, images: Tensor, scale: int) -> Tensor:
        """float32 (N, 3, H, W), sides multiples of 32, to probabilities float32 (N, C, H, W)."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """A window of an augmented tile at all scales; the same field of view, so that each scale is twice the last."""

    probabilities: tuple[Tensor, ...]
    """Of the backbone, coarse to fine, float32 (1, C, h * 2**scale, w * 2**scale)."""
    sets: tuple[Tensor, ...]
    """uint8 (1, h * 2**scale, w * 2**scale)."""


def draw_view(tiles: list[Tile], config: TrainingConfig, backbone: Predictor, rng: np.random.Generator) -> View:
    """Augment one tile, let the backbone see it whole at the coarsest scale and a window of it at the finer ones."""
    tile = draw_tile(tiles, config.refiners.tumour_share, rng)
    image, sets = augment(*_whole(tile, config, rng), rng, config.augment.coarse_glass)
    finest = len(config.mpps) - 1
    side = min(config.refiners.window_px, sets.shape[0]) >> finest  # at the coarsest scale, like y and x
    y, x = (int(rng.integers((length >> finest) - side + 1)) for length in sets.shape)
    probabilities, allowed = [], []
    for scale in range(finest + 1):
        window = np.s_[y << scale : (y + side) << scale, x << scale : (x + side) << scale]
        small, small_sets = shrink(image, sets, 1 << (finest - scale))
        if scale == 0:
            probabilities.append(_predict(small, backbone, scale)[:, :, window[0], window[1]])
        else:
            probabilities.append(_predict(small[window], backbone, scale))
        allowed.append(torch.tensor(np.ascontiguousarray(small_sets[window]))[None])
    return View(tuple(probabilities), tuple(allowed))


def _whole(tile: Tile, config: TrainingConfig, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    mpp = draw_mpp(config.mpps[-1], config.augment, rng)
    side = min(tile.sets.shape)
    multiple = 1 << (len(config.mpps) - 1)
    pixels = int(side * tile.mpp / mpp) // multiple * multiple
    return resample(tile, (0, 0, pixels * mpp / tile.mpp, pixels * mpp / tile.mpp), pixels)


def shrink(image: Pixels, sets: Pixels, factor: int) -> tuple[Pixels, Pixels]:
    """Both made smaller by a whole factor: the image averaged, the sets taken from the middle of each block."""
    if factor == 1:
        return image, sets
    return np.asarray(Image.fromarray(image).reduce(factor)), sets[factor // 2 :: factor, factor // 2 :: factor]


def _predict(image: Pixels, backbone: Predictor, scale: int) -> Tensor:
    height, width = image.shape[:2]
    padded = mirror(image, round_up(height, 32), round_up(width, 32))
    return backbone(normalise(padded)[None], scale)[:, :, :height, :width]
