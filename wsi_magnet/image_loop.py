"""MagNet as published, on images that fit in memory: coarse to fine, the points chosen over the whole image.

C: classes, H, W: size of an image, h, w: of the coarsest one, which is also that of every patch the networks see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box, round_up
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.nets.registry import INPUT_MULTIPLE
from wsi_magnet.refine.patches import assemble, cut, patch_grid
from wsi_magnet.refine.points import select_fraction
from wsi_magnet.refine.step import magnet_step, refine_patch
from wsi_magnet.refine.uncertainty import query_score, uncertainty

Probabilities = npt.NDArray[np.float32]


def segment_image(
    images: Sequence[npt.NDArray[np.uint8]],
    bundle: Bundle,
    *,
    points: float = 0.75,
    median_px: int = 5,
    patches: int | None = None,
) -> list[Probabilities]:
    """Segment one image, given at several scales (paper, section 3.1).

    images: uint8 (H, W, 3), RGB, coarse to fine; none smaller than the first, whose size all patches have. points: k,
    up to 1 the share of a scale's pixels that are overwritten, above 1 their number. median_px: odd side of the query
    score's median, in pixels of the coarsest image. patches: None refines all; n only the n most uncertain of each
    scale, and k counts their pixels alone (MagNet-Fast, section 3.4).
    Returns the probabilities after each scale, float32 (C, H, W), summing to 1 over C. Raises ConfigError.
    """
    _check(images, bundle, patches)
    loop = _Loop(bundle, images[0].shape[:2], points, median_px, patches)
    with torch.inference_mode():
        cumulative = loop.predict(loop.normalise(images[0]), scale=0)
        results = [cumulative]
        for scale, image in enumerate(images[1:], start=1):
            cumulative = loop.climb(loop.normalise(image), cumulative, scale)
            results.append(cumulative)
    return [one[0].cpu().numpy() for one in results]


@dataclass(frozen=True, slots=True)
class _Loop:
    """A bundle and how to use it."""

    bundle: Bundle
    patch_hw: tuple[int, int]
    points: float
    median_px: int
    patches: int | None

    def climb(self, image: Tensor, cumulative: Tensor, scale: int) -> Tensor:
        """One scale: image (1, 3, H, W) normalised, Y of the scale before, to Y of this one, (1, C, H, W)."""
        size_hw = (image.shape[-2], image.shape[-1])
        coarse = F.interpolate(cumulative, size=size_hw, mode="bilinear", align_corners=False)
        boxes = self._choose(patch_grid(image_hw=size_hw, patch_hw=self.patch_hw), coarse)
        refined, covered = assemble(((box, self._refine(image, coarse, box, scale)) for box in boxes), image=coarse)
        score = query_score(coarse=coarse, refined=refined, grid_hw=self.patch_hw, median_px=self.median_px)
        selected = select_fraction(score, self.points, covered)
        return magnet_step(coarse=coarse, refined=refined, selected=selected)

    def predict(self, patch: Tensor, scale: int) -> Tensor:
        """O: (1, 3, h, w) normalised to probabilities (1, C, h, w)."""
        spec, (height, width) = self.bundle.spec, self.patch_hw
        multiple = INPUT_MULTIPLE.get(spec.network, 1)
        margin = (0, round_up(width, multiple) - width, 0, round_up(height, multiple) - height)
        logits = self.bundle.backbone(F.pad(patch, margin, mode="replicate"))[..., :height, :width]
        temperature = spec.temperature[min(scale, len(spec.temperature) - 1)]
        return torch.softmax(logits.float() / temperature, dim=1)

    def normalise(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """Uint8 (H, W, 3) to float32 (1, 3, H, W) on the bundle's device."""
        spec, device = self.bundle.spec, self.bundle.device
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).unsqueeze(0)
        return pixels.float().div_(255).sub_(mean).div_(std).contiguous()

    def _refine(self, image: Tensor, coarse: Tensor, box: Box, scale: int) -> Tensor:
        served = self.bundle.spec.refiner_of
        refiner = self.bundle.refiners[served[min(scale, len(served)) - 1]]
        return refine_patch(fine=self.predict(cut(image, box), scale), coarse=cut(coarse, box), refiner=refiner)

    def _choose(self, boxes: Sequence[Box], coarse: Tensor) -> Sequence[Box]:
        """Of all patches those whose mean uncertainty is highest; the earlier one of two that tie."""
        if self.patches is None or self.patches >= len(boxes):
            return boxes
        unsure = uncertainty(coarse)
        means = [cut(unsure, box).mean().item() for box in boxes]
        ranked = sorted(range(len(boxes)), key=lambda i: -means[i])
        return [boxes[i] for i in sorted(ranked[: self.patches])]


def _check(images: Sequence[npt.NDArray[np.uint8]], bundle: Bundle, patches: int | None) -> None:
    if not images:
        raise ConfigError("no images; give at least one, coarse to fine")
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ConfigError(f"image {i} is {image.dtype} {image.shape}; give uint8 (H, W, 3), RGB")
        if image.shape[0] < images[0].shape[0] or image.shape[1] < images[0].shape[1]:
            raise ConfigError(f"image {i}, {image.shape[:2]}, is smaller than the first, {images[0].shape[:2]}")
    if len(images) > 1 and not bundle.refiners:
        raise ConfigError(
            f"bundle {bundle.spec.name!r} has one scale and no refiner; give one image, not {len(images)}"
        )
    if patches is not None and patches < 1:
        raise ConfigError(f"patches {patches} is not at least 1; None refines all")
