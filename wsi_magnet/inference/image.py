"""MagNet as published, on images that fit in memory: coarse to fine, with points selected over the whole image.

C: classes, H, W: size of an image, h, w: of the coarsest one, which is also that of every patch the networks see.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.config import Precision
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box, round_up
from wsi_magnet.inference.optimize import ARITHMETIC, Arithmetic, computing_in, inference_form, resolve_precision
from wsi_magnet.magnet.grid_selection import select_fraction_on_grid
from wsi_magnet.magnet.patches import assemble, cut, patch_grid
from wsi_magnet.magnet.selection import select_fraction
from wsi_magnet.magnet.step import magnet_step, refine_patch
from wsi_magnet.magnet.uncertainty import query_score, uncertainty
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.nets.registry import INPUT_MULTIPLE

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


def segment_image(
    images: Sequence[npt.NDArray[np.uint8]],
    bundle: Bundle,
    *,
    points: float = 0.75,
    median_px: int = 5,
    patches: int | None = None,
    precision: Precision = "auto",
) -> list[Probabilities]:
    """Segment one image, given at several scales (paper, section 3.1).

    images: uint8 (H, W, 3), RGB, coarse to fine; none smaller than the first, whose size all patches have. points: k,
    up to 1 the share of a scale's pixels that are overwritten, above 1 their number. median_px: odd side of the query
    score's median, in pixels of the coarsest image. patches: None refines all; n only the n most uncertain of each
    scale, and k counts their pixels alone (MagNet-Fast, section 3.4). precision: of the networks' arithmetic, as for
    `RunConfig`.
    Returns the probabilities after each scale, float32 (C, H, W), summing to 1 over C. Raises ConfigError.
    """
    _check(images, bundle, patches)
    forms = _forms(bundle, ARITHMETIC[resolve_precision(precision, bundle.device)])
    loop = _Loop(bundle, forms, images[0].shape[:2], points, median_px, patches)
    with torch.inference_mode():
        cumulative = loop.predict(images[0], scale=0)
        results = [cumulative]
        for scale, image in enumerate(images[1:], start=1):
            cumulative = loop.refine_scale(image, cumulative, scale)
            results.append(cumulative)
    return [one[0].cpu().numpy() for one in results]


@dataclass(frozen=True, slots=True)
class _Forms:
    """Inference form of a bundle's networks."""

    made_of: tuple[object, ...]
    arithmetic: Arithmetic
    backbone: nn.Module
    refiners: tuple[nn.Module, ...]


_made: WeakKeyDictionary[Bundle, _Forms] = WeakKeyDictionary()


def _forms(bundle: Bundle, arithmetic: Arithmetic) -> _Forms:
    """Inference form of a bundle's networks, cached until its weights or the arithmetic change."""
    networks = nn.ModuleList([bundle.backbone, *bundle.refiners])
    weights = (*networks.parameters(), *networks.buffers())
    made_of = (arithmetic, *((one.device, one.data_ptr(), one._version) for one in weights))
    made = _made.get(bundle)
    if made is None or made.made_of != made_of:
        backbone = inference_form(bundle.backbone, bundle.device, arithmetic.backbone)
        refiners = (inference_form(refiner, bundle.device, arithmetic.refiner) for refiner in bundle.refiners)
        _made[bundle] = made = _Forms(made_of, arithmetic, backbone, tuple(refiners))
    return made


@dataclass(frozen=True, slots=True)
class _Loop:
    """The loop over the scales of one image."""

    bundle: Bundle
    forms: _Forms
    patch_hw: tuple[int, int]
    points: float
    median_px: int
    patches: int | None

    def refine_scale(self, image: Pixels, cumulative: Tensor, scale: int) -> Tensor:
        """Y of a scale, float (1, C, H, W), from its image, uint8 (H, W, 3), and Y of the scale before."""
        size_hw = image.shape[0], image.shape[1]
        coarse = F.interpolate(cumulative, size=size_hw, mode="bilinear", align_corners=False)
        grid = patch_grid(image_hw=size_hw, patch_hw=self.patch_hw)
        boxes = self._choose(grid, coarse)
        patches = ((box, self._refine(image, coarse, box, scale)) for box in boxes)
        ratio = self._ratio(size_hw)
        if ratio and len(boxes) == len(grid):
            refined = _tiled(patches, image=coarse)
            selected = select_fraction_on_grid(
                coarse=coarse, refined=refined, ratio=ratio, points=self.points, median_px=self.median_px
            )
            return coarse.lerp_(refined, selected)  # in place, because the maps of a large image are large
        refined, covered = assemble(patches, image=coarse)
        score = query_score(coarse=coarse, refined=refined, grid_hw=self.patch_hw, median_px=self.median_px)
        return magnet_step(coarse=coarse, refined=refined, selected=select_fraction(score, self.points, covered))

    def predict(self, pixels: Pixels, scale: int) -> Tensor:
        """O, probabilities (1, C, h, w), from a patch, uint8 (h, w, 3)."""
        spec, (height, width) = self.bundle.spec, self.patch_hw
        multiple = INPUT_MULTIPLE.get(spec.network, 1)
        margin = (0, round_up(width, multiple) - width, 0, round_up(height, multiple) - height)
        patch = self._normalised(pixels)
        with computing_in(self.forms.arithmetic.backbone, patch.device):
            logits = self.forms.backbone(F.pad(patch, margin, mode="replicate") if any(margin) else patch)
        temperature = spec.temperature[min(scale, len(spec.temperature) - 1)]
        return torch.softmax(logits[..., :height, :width].float() / temperature, dim=1)

    def _normalised(self, pixels: Pixels) -> Tensor:
        """Uint8 (h, w, 3) to float32 (1, 3, h, w) on the bundle's device."""
        spec, device = self.bundle.spec, self.bundle.device
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        there = torch.from_numpy(np.array(pixels)).to(device).permute(2, 0, 1).unsqueeze(0)
        return there.float().div_(255).sub_(mean).div_(std)

    def _refine(self, image: Pixels, coarse: Tensor, box: Box, scale: int) -> Tensor:
        served = self.bundle.spec.refiner_of
        refiner = self.forms.refiners[served[min(scale, len(served)) - 1]]
        rows, columns = box.slices_yx
        fine = self.predict(image[rows, columns], scale)
        with computing_in(self.forms.arithmetic.refiner, fine.device):
            return refine_patch(fine=fine, coarse=cut(coarse, box), refiner=refiner)

    def _ratio(self, size_hw: tuple[int, int]) -> int:
        """Number of patches along each axis of an image; 0 where it is not a whole number or differs by axis."""
        (down, short_rows), (across, short_columns) = (
            divmod(length, side) for length, side in zip(size_hw, self.patch_hw, strict=True)
        )
        return down if down == across and not short_rows and not short_columns else 0

    def _choose(self, boxes: Sequence[Box], coarse: Tensor) -> Sequence[Box]:
        """Patches with the highest mean uncertainty; of equal ones the earlier."""
        if self.patches is None or self.patches >= len(boxes):
            return boxes
        unsure = uncertainty(coarse)
        means = [cut(unsure, box).mean().item() for box in boxes]
        ranked = sorted(range(len(boxes)), key=lambda i: -means[i])
        return [boxes[i] for i in sorted(ranked[: self.patches])]


def _tiled(patches: Iterable[tuple[Box, Tensor]], *, image: Tensor) -> Tensor:
    """Image (1, C, H, W) like `image`, assembled from patches that cover it without overlap."""
    whole = torch.empty_like(image)
    for box, patch in patches:
        cut(whole, box).copy_(patch)
    return whole


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
