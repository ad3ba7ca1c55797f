"""What may differ between laboratories and scanners, applied to a crop: orientation, stain, light, focus, compression.

The white of bare glass is rare in tiles cut from tissue, so that it is pasted in.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from scipy import ndimage

from first_bundle.config import GlassConfig
from first_bundle.tiles import BACKGROUND, GLAND, Pixels

Floats = npt.NDArray[np.float32]

HED_TO_RGB = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
"""Optical densities of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001), a stain a row."""
RGB_TO_HED = np.linalg.inv(HED_TO_RGB).astype(np.float32)
WHITE_ABOVE = 190
"""Darkest channel, smoothed, of a lumen or of glass."""
DEEP_PX = 64
DENSITY = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)


def augment(image: Pixels, sets: Pixels, rng: np.random.Generator, glass: GlassConfig) -> tuple[Pixels, Pixels]:
    """A varied copy of a crop, uint8 (H, W, 3), and of its sets, uint8 (H, W); H and W may change places."""
    image, sets = turn(image, sets, rng)
    if rng.random() < glass.share:
        covered = 1.0 if rng.random() < glass.whole_share else rng.uniform(0.2, glass.most)
        image, sets = paste_glass(image, sets, rng, covered)
    image = restain(image, rng)
    if rng.random() < 0.3:
        picture = Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3)))
        image = np.asarray(picture)
    if rng.random() < 0.4:
        image = compress(image, quality=int(rng.integers(30, 95)))
    return image, sets


def doubt_deep_white(image: Pixels, sets: Pixels) -> Pixels:
    """The same sets, but white that is far from any tissue may also be glass: there is no lining to tell it by.

    image: uint8 (H, W, 3). sets: uint8 (H, W). Far is in pixels, whatever their resolution, as it is to the network.
    """
    darkest = np.asarray(Image.fromarray(image.min(axis=-1)).filter(ImageFilter.GaussianBlur(2)))
    deep = ndimage.distance_transform_edt(darkest > WHITE_ABOVE) > DEEP_PX
    return np.where(deep, sets | BACKGROUND, sets).astype(np.uint8)


def turn(image: Pixels, sets: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """One of the eight orientations."""
    quarter_turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    image, sets = np.rot90(image, quarter_turns), np.rot90(sets, quarter_turns)
    return (image[:, ::-1], sets[:, ::-1]) if mirrored else (image, sets)


def restain(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Other amounts of each stain, other light: densities are mixed in the stains' own axes, then scaled a channel."""
    amounts = np.exp(rng.normal(0, (0.25, 0.25, 0.3))).astype(np.float32)
    mixing = RGB_TO_HED @ np.diag(amounts) @ HED_TO_RGB
    mixing = mixing @ np.diag(np.exp(rng.normal(0, 0.1, 3)).astype(np.float32))
    light = np.clip(rng.normal(1.0, 0.05) + rng.normal(0, 0.015, 3), 0.8, 1.08).astype(np.float32)
    density = DENSITY[image] @ (mixing * np.float32(np.exp(rng.normal(0, 0.15))))
    bright: Floats = 255 * light * np.exp(-density)
    return np.clip(np.rint(bright), 0, 255).astype(np.uint8)


def compress(image: Pixels, quality: int) -> Pixels:
    """Through JPEG and back."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def paste_glass(image: Pixels, sets: Pixels, rng: np.random.Generator, covered: float) -> tuple[Pixels, Pixels]:
    """Bare glass with a smooth random outline over that share of the crop.

    White pasted on the white of a lumen changes nothing that could be seen: there the gland stays allowed.
    """
    weight = _smooth_shape(sets.shape, rng, covered)
    # The tile's own white: glass of another tone could be told from a lumen by its tone.
    color = np.maximum(np.quantile(image[::4, ::4], 0.98, axis=(0, 1)), 228) + rng.normal(0, 2)
    white = color + rng.normal(0, rng.uniform(0.3, 2.5), image.shape)
    mixed = np.clip(image * (1 - weight[..., None]) + white * weight[..., None], 0, 255).astype(np.uint8)
    if covered == 1:
        return mixed, np.full_like(sets, BACKGROUND)
    darkest = np.asarray(Image.fromarray(image.min(axis=-1)).filter(ImageFilter.GaussianBlur(2)))
    lumen = ((sets & GLAND) > 0) & (darkest > WHITE_ABOVE)
    pasted = np.where(lumen, sets | BACKGROUND, BACKGROUND).astype(np.uint8)
    return mixed, np.where(weight > 0.5, pasted, sets).astype(np.uint8)


def _smooth_shape(shape_hw: tuple[int, ...], rng: np.random.Generator, covered: float) -> Floats:
    """float32 (H, W), 1 inside and 0 outside but for a rim of a pixel or two."""
    height, width = shape_hw
    coarse = rng.normal(size=(int(rng.integers(2, 6)),) * 2).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    sharp = np.clip((smooth - np.quantile(smooth[::4, ::4], 1 - covered)) * 2000 + 128, 0, 255)
    if covered == 1:
        sharp = np.full_like(sharp, 255)
    blurred = Image.fromarray(sharp.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)
