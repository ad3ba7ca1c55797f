"""Augmentation of a crop by what differs between laboratories and scanners: orientation, stain, light, focus, JPEG.

An augmentation is drawn once, as a value, and applied to every scale of a view alike.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageFilter

from wsi_magnet.slides.types import Image
from wsi_magnet.train.config import AugmentConfig
from wsi_magnet.train.glass import Glass, draw_glass

Floats = npt.NDArray[np.float32]

HED_TO_RGB = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
"""Optical densities of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001), a stain a row."""
RGB_TO_HED = np.linalg.inv(HED_TO_RGB).astype(np.float32)
DENSITY = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)
MOST_BLUR_PX = 1.3
JPEG_QUALITY = (30, 95)


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Parameters of one augmentation; the default is the identity."""

    quarter_turns: int = 0
    mirrored: bool = False
    degrees: float = 0.0
    """Rotation besides the quarter turns, counter-clockwise."""
    mixing: Floats | None = None
    """float32 (3, 3): densities of RGB to those of the other stain."""
    light: Floats | None = None
    """float32 (3,): brightness of glass, a part of white, by channel."""
    blur_px: float = 0.0
    quality: int | None = None
    """JPEG quality; None without compression."""
    glass: Glass | None = None

    def image(self, image: Image, mpp: float) -> Image:
        """uint8 (H, W, 3) RGB to the same; H and W may change places. mpp: microns per pixel, for the glass."""
        image = self.turn(image)
        if self.degrees:
            picture = Pillow.fromarray(_mirror_frame(image)).rotate(self.degrees, Pillow.Resampling.BILINEAR)
            image = _cut_frame(np.asarray(picture), image.shape)
        if self.glass is not None:
            image = self.glass.image(image, mpp)
        if self.mixing is not None and self.light is not None:
            image = restain(image, self.mixing, self.light)
        if self.blur_px:
            image = np.asarray(Pillow.fromarray(image).filter(ImageFilter.GaussianBlur(self.blur_px)))
        if self.glass is not None:
            image = self.glass.empty(image, mpp)
        return image if self.quality is None else compress(image, self.quality)

    def labels(self, sets: npt.NDArray[np.uint32], outside: int, mpp: float) -> npt.NDArray[np.uint32]:
        """uint32 (H, W), turned and painted as the image is; what a rotation brings in from outside is `outside`."""
        rotated = self._rotated_labels(self.turn(sets), outside)
        return rotated if self.glass is None else self.glass.labels(rotated, mpp)

    def _rotated_labels(self, turned: npt.NDArray[np.uint32], outside: int) -> npt.NDArray[np.uint32]:
        if not self.degrees:
            return turned
        # Pillow has no unsigned 32-bit pixels; the bits of a signed one are the same.
        picture = Pillow.fromarray(np.ascontiguousarray(turned).view(np.int32), mode="I")
        rotated = picture.rotate(self.degrees, Pillow.Resampling.NEAREST, fillcolor=int(outside))
        return np.asarray(rotated, np.int32).view(np.uint32)

    def turn(self, array: npt.NDArray[np.generic]) -> npt.NDArray:  # type: ignore[type-arg]  # whatever came
        """Apply one of the eight orientations of an array (H, W, ...)."""
        array = np.rot90(array, self.quarter_turns)
        return array[:, ::-1] if self.mirrored else array


def draw_augmentation(
    config: AugmentConfig, rng: np.random.Generator, *, extent_um: float, background: int | None
) -> Augmentation:
    """Draw an augmentation. The same random numbers are consumed whatever is turned on.

    extent_um: side of the crop. background: label set of the background class alone, of painted glass; None without
    such a class.
    """
    turns, mirrored, degrees = int(rng.integers(4)), bool(rng.integers(2)), float(rng.uniform(-1, 1)) * config.rotation
    mixing, light = _draw_stain(config, rng)
    blurred, blur_px = rng.random() < config.blur, float(rng.uniform(0.3, MOST_BLUR_PX))
    compressed, quality = rng.random() < config.jpeg, int(rng.integers(*JPEG_QUALITY))
    painted, glass_rng = rng.random() < config.glass, np.random.default_rng(int(rng.integers(2**32)))
    glass = draw_glass(glass_rng, extent_um, background) if painted and background is not None else None
    stained = config.stain > 0 or config.light > 0
    return Augmentation(
        turns if config.flips and not config.upright else 0,
        mirrored and config.flips,
        degrees,
        mixing if stained else None,
        light if stained else None,
        blur_px if blurred else 0.0,
        quality if compressed else None,
        glass,
    )


def _draw_stain(config: AugmentConfig, rng: np.random.Generator) -> tuple[Floats, Floats]:
    amounts = np.exp(rng.normal(0, config.stain, 3))
    channels = np.exp(rng.normal(0, config.stain / 2.5, 3))
    strength = np.exp(rng.normal(0, config.stain / 2))
    mixing = RGB_TO_HED @ np.diag(amounts) @ HED_TO_RGB @ np.diag(channels) * strength
    light = np.clip(rng.normal(1, config.light) + rng.normal(0, config.light / 3, 3), 0.8, 1.08)
    return mixing.astype(np.float32), light.astype(np.float32)


def restain(image: Image, mixing: Floats, light: Floats) -> Image:
    """Other amounts of each stain, other light: densities are mixed in the stains' own axes (HED).

    image: uint8 (H, W, 3). mixing: float32 (3, 3), applied to densities from the right. light: float32 (3,).
    """
    bright: Floats = 255 * light * np.exp(-(DENSITY[image] @ mixing))
    return np.clip(np.rint(bright), 0, 255).astype(np.uint8)


def compress(image: Image, quality: int) -> Image:
    """Compress as JPEG and decode again."""
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "jpeg", quality=quality)
    return np.asarray(Pillow.open(buffer).convert("RGB"))


def _mirror_frame(image: Image) -> Image:
    height, width = image.shape[:2]
    return np.pad(image, ((height // 2,) * 2, (width // 2,) * 2, (0, 0)), mode="symmetric")


def _cut_frame(framed: Image, shape: tuple[int, ...]) -> Image:
    height, width = shape[:2]
    return framed[height // 2 : height // 2 + height, width // 2 : width // 2 + width]
