"""MagNet as published, on images that fit in memory: coarse to fine, with points selected over the whole image.

C: classes, H, W: size of an image, h, w: of the coarsest one, which is also that of every patch the networks see.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, overload
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.config import Precision
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.inference.optimize import ARITHMETIC, Arithmetic, computing_in, inference_form, resolve_precision
from wsi_magnet.magnet.grid_selection import select_fraction_on_grid
from wsi_magnet.magnet.patches import assemble, cut, patch_grid
from wsi_magnet.magnet.selection import select_fraction
from wsi_magnet.magnet.step import magnet_step, refine_patch, uses_rgb
from wsi_magnet.magnet.uncertainty import query_score, uncertainty
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.nets.network import NetworkInfo, Normalisation
from wsi_magnet.nets.registry import info_of
from wsi_magnet.nets.spec import ClassInfo
from wsi_magnet.scales import build_ladder
from wsi_magnet.schema import Bounds
from wsi_magnet.slides.mpp import check_mpp
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.types import Level, SlideInfo
from wsi_magnet.text import counted
from wsi_magnet.values import check, documented

MPP_TOLERANCE = 0.05
"""Share by which an image's microns per pixel may differ from those of the scale that it is given for."""

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


@documented
@dataclass(frozen=True, eq=False, repr=False)
class ImageSegmentation(Sequence[Probabilities]):
    """Segmentation of an image in memory; as a sequence, the probabilities after each scale, coarse to fine."""

    probabilities: tuple[Probabilities, ...]
    """After each scale: float32 (C, H, W), summing to 1 over C."""
    mpps: tuple[float, ...]
    """Microns per pixel of each scale."""
    classes: tuple[ClassInfo, ...]
    """Classes, in the order of the probabilities' channels."""

    @property
    def labels(self) -> Pixels:
        """The mask of the finest scale: uint8 (H, W), the `value` of the likeliest class at each pixel."""
        values = np.array([one.value for one in self.classes], np.uint8)
        return np.asarray(values[self.probabilities[-1].argmax(axis=0)], np.uint8)

    def labels_at(self, height: int, width: int) -> Pixels:
        """The mask as uint8 (height, width), such as the image's own: the label under the centre of each pixel.

        Raises ConfigError for a side below 1.
        """
        height = check(Annotated[int, Bounds(1)], height, "height")
        width = check(Annotated[int, Bounds(1)], width, "width")
        labels = self.labels
        rows, columns = (
            ((np.arange(wanted) + 0.5) * own / wanted).astype(np.int64)
            for wanted, own in zip((height, width), labels.shape, strict=True)
        )
        return np.asarray(labels[np.ix_(rows, columns)], np.uint8)

    @overload
    def __getitem__(self, index: int) -> Probabilities: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Probabilities, ...]: ...

    def __getitem__(self, index: int | slice) -> Probabilities | tuple[Probabilities, ...]:
        return self.probabilities[index]

    def __len__(self) -> int:
        return len(self.probabilities)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.probabilities[-1].shape[:0:-1]))
        mpps, names = ", ".join(f"{mpp:g}" for mpp in self.mpps), ", ".join(one.name for one in self.classes)
        return f"<ImageSegmentation: {size} pixels, scales of {mpps} µm/px, {names}>"


def segment_image(
    images: Pixels | Sequence[Pixels],
    bundle: Bundle,
    *,
    mpp: float | Sequence[float] | None = None,
    points: float = 0.75,
    median_px: int = 5,
    patches: int | None = None,
    precision: Precision = "auto",
) -> ImageSegmentation:
    """Segment an image in memory by the loop of the paper (section 3.1).

    images: one image, uint8 (H, W, 3), RGB, of `mpp` microns per pixel; it is resampled to the bundle's scales, as a
    slide is, and those finer than the image are left out. Or the image at several scales, coarse to fine, none smaller
    than the first, whose size all patches have; `mpp` has the microns per pixel of each, which must be the bundle's
    first scales (`bundle.spec.mpps`). None: there are as many images as the bundle has scales.
    points: k, up to 1 the share of a scale's pixels that are overwritten, above 1 their number. median_px: odd side of
    the query score's median, in pixels of the coarsest image. patches: None refines all; n only the n most uncertain of
    each scale, and k counts their pixels alone (MagNet-Fast, section 3.4). precision: of the networks' arithmetic, as
    for `RunConfig`.
    Returns the probabilities after each scale and the mask of the finest one. Raises ConfigError.
    """
    check(Bundle, bundle, "bundle")
    check(Precision, precision, "precision")
    points = check(float, points, "points")
    median_px = check(Annotated[int, Bounds(1)], median_px, "median_px")
    patches = check(int | None, patches, "patches")
    if isinstance(images, np.ndarray):
        _check_image(images, "the image")
        images, mpps = _scaled(images, bundle, mpp)
    else:
        _check(images, bundle)
        mpps = _mpps_of(images, bundle, mpp)
    if patches is not None and patches < 1:
        raise ConfigError(f"patches {patches} is not at least 1; None refines all", arguments=("patches",))
    forms = _forms(bundle, ARITHMETIC[resolve_precision(precision, bundle.device)])
    loop = _Loop(bundle, forms, images[0].shape[:2], points, median_px, patches)
    with torch.inference_mode():
        cumulative = loop.predict(images[0], scale=0)
        results = [cumulative]
        for scale, image in enumerate(images[1:], start=1):
            cumulative = loop.refine_scale(image, cumulative, scale)
            results.append(cumulative)
    return ImageSegmentation(tuple(one[0].cpu().numpy() for one in results), mpps, bundle.spec.classes)


def _scaled(
    image: Pixels, bundle: Bundle, mpp: float | Sequence[float] | None
) -> tuple[list[Pixels], tuple[float, ...]]:
    """The image at each of the bundle's scales, with their microns per pixel. Raises ConfigError."""
    if mpp is None:
        raise ConfigError("mpp is missing: give the microns per pixel of the image", arguments=("mpp",))
    own, _ = check_mpp(mpp)  # type: ignore[arg-type]  # which refuses several
    reader = _ImageReader(image, own)
    ladder = build_ladder(bundle.spec.mpps, (own, own), reader.info.size)
    return [read_scale(reader, one, one.grid) for one in ladder.scales], tuple(one.mpp for one in ladder.scales)


class _ImageReader:
    """An image in memory as a slide of one level; a `SlideReader`."""

    def __init__(self, image: Pixels, mpp: float) -> None:
        self._image = image
        size = Size(image.shape[1], image.shape[0])
        self.info = SlideInfo(
            "the image", "memory", "array", (Level(size, (1.0, 1.0)),), Box.of(size), (mpp, mpp), "mpp", ""
        )

    def read_level(self, level: int, box: Box) -> tuple[Pixels, tuple[float, float]]:
        """See `SlideReader.read_level`."""
        return self._image[box.slices_yx], (float(box.x0), float(box.y0))

    def close(self) -> None:
        """See `SlideReader.close`."""


def _mpps_of(images: Sequence[Pixels], bundle: Bundle, mpp: float | Sequence[float] | None) -> tuple[float, ...]:
    """Microns per pixel of each image: the bundle's first scales. Raises ConfigError where they are not."""
    ladder = bundle.spec.mpps
    scales = f"the bundle's scales, {', '.join(f'{one:g}' for one in ladder)} µm/px"
    if mpp is None:
        if len(images) == len(ladder):
            return ladder
        raise ConfigError(
            f"{counted(len(images), 'image')} for {scales}: give mpp, the microns per pixel of each", arguments=("mpp",)
        )
    given: tuple[float, ...] = check(tuple[float, ...], [mpp] if isinstance(mpp, Real) else mpp, "mpp")
    if len(given) != len(images):
        raise ConfigError(f"mpp has {len(given)} values for {counted(len(images), 'image')}", arguments=("mpp",))
    first = ladder[: len(given)]
    if len(given) > len(ladder) or any(abs(a / b - 1) > MPP_TOLERANCE for a, b in zip(given, first, strict=True)):
        shown = ", ".join(f"{one:g}" for one in given)
        raise ConfigError(
            f"mpp is {shown}, not the first of {scales}; resample the images, or give one image with its mpp",
            arguments=("mpp",),
        )
    for i, image in enumerate(images[1:], start=1):
        for axis in (0, 1):
            if abs(image.shape[axis] * first[i] - images[0].shape[axis] * first[0]) > first[0]:
                raise ConfigError(
                    f"image {i}, {image.shape[:2]} at {first[i]:g} µm/px, shows another area than the first, "
                    f"{images[0].shape[:2]} at {first[0]:g} µm/px"
                )
    return first


@dataclass(frozen=True, slots=True)
class _Forms:
    """Inference form of a bundle's networks."""

    made_of: tuple[object, ...]
    arithmetic: Arithmetic
    info: NetworkInfo
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
        info = info_of(bundle.spec)
        backbone = inference_form(bundle.backbone, bundle.device, arithmetic.backbone, folds_by_name=info.folds_by_name)
        refiners = (inference_form(refiner, bundle.device, arithmetic.refiner) for refiner in bundle.refiners)
        _made[bundle] = made = _Forms(made_of, arithmetic, info, backbone, tuple(refiners))
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
        spec, patch = self.bundle.spec, self._normalised(pixels)
        with computing_in(self.forms.arithmetic.backbone, patch.device):
            logits = self.forms.info.logits(self.forms.backbone, patch, len(spec.classes))
        return torch.softmax(logits.float() / spec.temperature[scale], dim=1)

    def _normalised(self, pixels: Pixels) -> Tensor:
        """Uint8 (h, w, 3) to float32 (1, 3, h, w) on the bundle's device."""
        return Normalisation(self.bundle.spec.mean, self.bundle.spec.std).of(self._rgb(pixels))

    def _rgb(self, pixels: Pixels) -> Tensor:
        """Uint8 (h, w, 3) to float32 (1, 3, h, w), 0 to 1, on the bundle's device."""
        there = torch.from_numpy(np.array(pixels)).to(self.bundle.device).permute(2, 0, 1).unsqueeze(0)
        return there.float().div_(255)

    def _refine(self, image: Pixels, coarse: Tensor, box: Box, scale: int) -> Tensor:
        refiner = self.forms.refiners[self.bundle.spec.refiner_of[scale - 1]]
        rows, columns = box.slices_yx
        pixels = image[rows, columns]
        fine = self.predict(pixels, scale)
        rgb = self._rgb(pixels) if uses_rgb(refiner) else None
        with computing_in(self.forms.arithmetic.refiner, fine.device):
            return refine_patch(fine=fine, coarse=cut(coarse, box), refiner=refiner, rgb=rgb)

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


def _check(images: Sequence[Pixels], bundle: Bundle) -> None:
    if not isinstance(images, Sequence):
        raise ConfigError(f"images is {images!r:.60}; give uint8 (H, W, 3), RGB, or several", arguments=("images",))
    if not images:
        raise ConfigError("no images; give at least one, coarse to fine")
    for i, image in enumerate(images):
        _check_image(image, f"image {i}")
        if image.shape[0] < images[0].shape[0] or image.shape[1] < images[0].shape[1]:
            raise ConfigError(f"image {i}, {image.shape[:2]}, is smaller than the first, {images[0].shape[:2]}")
    if len(images) > 1 and not bundle.refiners:
        raise ConfigError(
            f"bundle {bundle.spec.name!r} has one scale and no refiner; give one image, not {len(images)}"
        )


def _check_image(image: Pixels, name: str) -> None:
    if not isinstance(image, np.ndarray):
        raise ConfigError(f"{name} is {image!r:.60}; give uint8 (H, W, 3), RGB")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ConfigError(f"{name} is {image.dtype} {image.shape}; give uint8 (H, W, 3), RGB")
