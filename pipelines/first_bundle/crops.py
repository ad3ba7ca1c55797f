"""Crops of tiles at any microns per pixel, resampled once, and batches of them, each a function of (seed, step)."""

from __future__ import annotations

from math import exp, log

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from first_bundle.augment import augment, doubt_deep_white
from first_bundle.config import AugmentConfig, TrainingConfig
from first_bundle.tiles import Pixels, Tile

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def crop_at(tile: Tile, mpp: float, size_px: int, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """A random square of `size_px` pixels of `mpp`; mirrored at the edge where the tile is too small for it."""
    side = min(tile.sets.shape)
    span = min(size_px * mpp / tile.mpp, side)
    pixels = max(1, min(size_px, round(span * tile.mpp / mpp)))
    x, y = rng.uniform(0, tile.sets.shape[1] - span), rng.uniform(0, tile.sets.shape[0] - span)
    image, sets = resample(tile, (x, y, x + span, y + span), pixels)
    return mirror(image, size_px, size_px), mirror(sets, size_px, size_px)


def resample(tile: Tile, box: tuple[float, float, float, float], pixels: int) -> tuple[Pixels, Pixels]:
    """The part `box` (x0, y0, x1, y1, in the tile's pixels) as a square of `pixels`, image and sets."""
    bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    image = Image.fromarray(tile.image).resize((pixels, pixels), bilinear, box=box)
    sets = Image.fromarray(tile.sets).resize((pixels, pixels), nearest, box=box)
    return np.asarray(image), np.asarray(sets)


def mirror(array: Pixels, height: int, width: int) -> Pixels:
    """Continued by its mirror image, below and to the right, to that size."""
    margins = [(0, height - array.shape[0]), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, margins, mode="symmetric")


def draw_mpp(mpp: float, config: AugmentConfig, rng: np.random.Generator) -> float:
    """`mpp` times a log-uniform factor."""
    low, high = config.scale_jitter
    return mpp * exp(rng.uniform(log(low), log(high)))


def draw_tile(tiles: list[Tile], tumour_share: float, rng: np.random.Generator) -> Tile:
    """A tile of `rings_tumour` with that probability, otherwise one of `rings_glands`."""
    kind = "tumour" if rng.random() < tumour_share else "glands"
    fitting = [tile for tile in tiles if tile.kind == kind]
    return fitting[int(rng.integers(len(fitting)))]


def batch_at(tiles: list[Tile], config: TrainingConfig, step: int) -> tuple[Tensor, Tensor]:
    """The batch of one step of stage 1: images float32 (N, 3, H, W), normalised, and sets uint8 (N, H, W)."""
    rng = np.random.default_rng([config.seed, step])
    images, sets = [], []
    for _ in range(config.backbone.batch):
        tile = draw_tile(tiles, config.backbone.tumour_share, rng)
        mpp = draw_mpp(float(rng.choice(config.mpps)), config.augment, rng)
        image, allowed = crop_at(tile, mpp, config.backbone.crop_px, rng)
        image, allowed = augment(image, doubt_deep_white(image, allowed), rng, config.augment.glass_at(mpp))
        images.append(normalise(image))
        sets.append(torch.tensor(np.ascontiguousarray(allowed)))
    return torch.stack(images), torch.stack(sets)


def normalise(image: Pixels) -> Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W), less the mean and over the deviation of ImageNet."""
    scaled = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    return (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
