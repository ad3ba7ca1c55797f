"""Inference engine: a bundle on a device; uint8 patches in, uint8 cells out, one MagNet step in between.

Every patch has the same shape and every batch is padded to the same size, so a patch's result does not depend on the
rest of its batch: that makes the mask independent of tiles and workers, bit for bit on CPU.

N: patches of a batch, S: side of a cell, P: side of a patch, W: side of the part of it that the cell's result depends
on, C: classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_magnet.config import MAGNET, Precision
from wsi_magnet.inference.devices import default_batch
from wsi_magnet.inference.features import FeatureTap, block_features, count_blocks, distances_from
from wsi_magnet.inference.optimize import ARITHMETIC, computing_in, inference_form, resolve_precision
from wsi_magnet.inference.tiles import CellPixels, clear_outside
from wsi_magnet.labels import NOT_ANALYSED
from wsi_magnet.magnet.step import upsample_inner, uses_rgb, without_margin
from wsi_magnet.methods.build import build_method
from wsi_magnet.methods.magnet import MagNet
from wsi_magnet.methods.method import Context, Method, Needs, PatchMaps
from wsi_magnet.nets.bundle import Bundle, FeatureStatistics
from wsi_magnet.nets.registry import info_of
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.planning.plan import PatchGeometry

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

UNKNOWN = 1
"""Stored probability of every class where a cell could not be analysed. Real ones add up to about 255, and cells
without tissue hold 0, so the three cannot be taken for each other."""

MOST_TIMES = 3.0
"""Limit of a block's distance, as a multiple of the usual one: a pen mark or a fold must not speak for a slide."""


@dataclass(frozen=True, eq=False)
class ContextMaps:
    """Maps of a patch of the coarsest scale, on the device; computed once for all cells of a tile in it."""

    probabilities: Tensor
    """float32 (1, C, p, p)."""
    features: Tensor
    """float32 (1, F, p / stride, p / stride)."""


@dataclass(frozen=True, eq=False)
class PatchInput:
    """Inputs of the networks for one cell."""

    image: Pixels
    """uint8 (P, P, 3)."""
    coarse: Pixels | None
    """uint8 (C, W / 2 + 2, W / 2 + 2) from the coarser scale; None at the coarsest."""
    context: Context | None = None
    """For methods that need it."""


class Results(NamedTuple):
    """Cells of a batch, on the device, uint8 (N, [C,] S, S) but for the counts."""

    labels: Tensor
    """The likeliest class's value."""
    uncertainty: Tensor
    """255 - (largest - second), of the bytes."""
    probabilities: Tensor
    """255 = 1."""
    distances: Tensor
    """float32 (N, blocks): distance of each block of a cell from the training data, row by row; 0 if not known."""
    changed_px: Tensor
    """int32 (N,): pixels of each cell to which refinement gave another label than the coarser scale; 0 at the coarsest.
    Pixels beyond the grid's edge count too."""


class Engine:
    """Runs a bundle's networks; thread-safe."""

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        *,
        precision: Precision = "auto",
        batch_size: int | None = None,
        features: bool = False,
        method: str = MAGNET,
    ) -> None:
        """features: keep those of the last patch for `block_features`, and compare them with nothing. method: that
        refines. Raises ConfigError for an unknown one, BundleError where the bundle lacks what it needs.
        """
        self._spec = spec = bundle.spec
        self.device = device
        self._arithmetic = ARITHMETIC[resolve_precision(precision, device)]
        self._network = info_of(spec)
        self._backbone = inference_form(
            bundle.backbone, device, self._arithmetic.backbone, folds_by_name=self._network.folds_by_name
        )
        self._statistics = None if features else _on_device(bundle.statistics, device)
        self._refiners = [inference_form(net, device, self._arithmetic.refiner) for net in bundle.refiners]
        self._method = self._built(bundle, method)
        self.needs: Needs = self._method.needs
        """Inputs of the method that refines."""
        needed = features or self._statistics is not None or self.needs.features or self.needs.context
        self._tap = FeatureTap(self._backbone, self._network) if needed and self._network.head else None
        self.batch_size = batch_size or default_batch(device)
        self.classes = len(spec.classes)
        scale = 1 / (255 * torch.tensor(spec.std))
        self._scale, self._shift = (
            values.to(device).view(1, 3, 1, 1) for values in (scale, -255 * torch.tensor(spec.mean) * scale)
        )
        self._values = [c.value for c in spec.classes]
        self.values = tuple(sorted({0, *(c.value for c in spec.classes), NOT_ANALYSED}))
        self._prior = _prior(self.classes, spec.background_index)
        self._device_prior = self._prior.to(device)

    def _built(self, bundle: Bundle, method: str) -> Method:
        """The method on the device; MagNet's modules in the form and the arithmetic of inference."""
        if method == MAGNET:
            radii_px = [getattr(refiner, "receptive_radius_px", None) for refiner in bundle.refiners]
            shown = any(uses_rgb(refiner) for refiner in bundle.refiners)
            return MagNet(
                bundle.spec, [partial(self._refined, net) for net in self._refiners], radii_px, uses_rgb=shown
            )
        built = build_method(bundle, method)
        if built.head is not None:
            built.head.to(self.device)
        return built

    def _refined(self, refiner: nn.Module, **maps: Tensor) -> Tensor:
        with computing_in(self._arithmetic.refiner, self.device):
            logits: Tensor = refiner(**maps)
        return logits

    @property
    def shares_batches(self) -> bool:
        """True if patches of several tiles can share a batch on a GPU, which is recorded once and replayed."""
        return isinstance(self._method, MagNet) and self._network.recordable

    def margin_px(self, geometry: PatchGeometry) -> int:
        """Margin of the maps on which a cell's result depends, at most the halo; the backbone sees the whole patch."""
        if geometry.index == 0:
            return 0
        return self._method.margin_px(geometry.index, geometry.ratio, geometry.halo_px)

    def is_unaffected(self, coarse: Pixels, geometry: PatchGeometry) -> bool:
        """True if refinement cannot change a cell, as with MagNet where no score can reach the threshold.

        coarse: as in `PatchInput`.
        """
        with torch.inference_mode():
            maps = _upsample(torch.from_numpy(coarse[None]), self._prior)
            return not self._method.can_change(self._maps(maps, geometry))

    def _maps(self, coarse: Tensor, geometry: PatchGeometry) -> PatchMaps:
        mpp, margin_px = self._spec.mpps[geometry.index], self.margin_px(geometry)
        return PatchMaps(coarse, mpp, margin_px, scale=geometry.index, ratio=geometry.ratio)

    def context(self, image: Pixels) -> ContextMaps:
        """Maps of a patch of the coarsest scale, uint8 (p, p, 3), for methods that need them."""
        assert self._tap is not None
        with torch.inference_mode():
            logits = self._logits(self._normalised(torch.from_numpy(image[None]).to(self.device)))
            return ContextMaps(self._probabilities(logits, 0), self._tap.take(image.shape[0]).float())

    def segment(self, inputs: Sequence[PatchInput], geometry: PatchGeometry) -> Iterator[CellPixels]:
        """Results of up to `batch_size` patches, in their order."""
        images, coarse = self.batch_of(inputs)
        with torch.inference_mode():
            there = None if coarse is None else coarse.to(self.device)
            if self.shares_batches or there is None:
                found = self.compute(images.to(self.device), there, geometry)
                yield from self.cells(found, len(inputs))
                return
            for i, one in enumerate(inputs):  # contexts differ, and a result must not depend on the rest of a batch
                image, maps = images[i : i + 1].to(self.device), there[i : i + 1]
                yield from self.cells(self.compute(image, maps, geometry, one.context), 1)

    def upsample_only(self, coarse: Pixels, geometry: PatchGeometry) -> CellPixels:
        """Upsample the coarser result without refining it; a cell that was not analysed stays so.

        coarse: as in `PatchInput`. Always on the CPU: too little work to be worth a transfer.
        """
        return upsample_only(coarse, self._spec, self.margin_px(geometry))

    def batch_of(self, inputs: Sequence[PatchInput]) -> tuple[Tensor, Tensor | None]:
        """Images uint8 (batch_size, P, P, 3) and coarser maps, padded with zeros, ready to be copied to the device."""
        maps = [i.coarse for i in inputs if i.coarse is not None]
        return self._padded([i.image for i in inputs]), self._padded(maps) if maps else None

    def _padded(self, parts: Sequence[Pixels]) -> Tensor:
        if len(parts) == self.batch_size == 1:
            return torch.from_numpy(parts[0][None])
        shape = (self.batch_size, *parts[0].shape)
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        filled = batch.numpy()
        for place, part in enumerate(parts):
            filled[place] = part
        filled[len(parts) :] = 0
        return batch

    def compute(
        self, images: Tensor, coarse: Tensor | None, geometry: PatchGeometry, context: Context | None = None
    ) -> Results:
        """The computation on the device: uint8 (N, P, P, 3), and (N, C, W / 2 + 2, W / 2 + 2) except at the coarsest
        scale.

        Never waits for the device, so that with MagNet it can be queued, or recorded once and replayed.
        """
        margin, needs = self.margin_px(geometry), self.needs
        fine = features = None
        distances = torch.zeros(len(images), count_blocks(geometry.cell_px), device=images.device)
        if coarse is None or needs.fine or needs.features:
            x = self._normalised(images)
            fine = self._segment_fine(x, geometry, margin)
            if needs.features and self._tap is not None:
                features = self._tap.look(geometry.patch_px).float()
            distances = self._distances(x, geometry)
        if coarse is None:
            assert fine is not None
            return _results(fine, self._values, distances)
        maps = replace(
            self._maps(_upsample(coarse, self._device_prior), geometry),
            rgb=without_margin(_rgb(images), geometry.halo_px - margin) if needs.rgb else None,
            fine=fine if needs.fine else None,
            features=features,
            context=context,
        )
        return _results(self._method.refine(maps), self._values, distances, before=maps.inner(maps.coarse))

    def block_features(self, image: Pixels, geometry: PatchGeometry) -> Floats | None:
        """Features of the blocks of the patch that this thread has just segmented, a batch of its own: uint8 (P, P, 3)
        to float32 (blocks, features); None for networks without them.
        """
        if self._tap is None:
            return None
        with torch.inference_mode():
            x = self._normalised(torch.from_numpy(image[None]).to(self.device))
            blocks: Floats = block_features(self._tap.take(geometry.patch_px), x, geometry.halo_px)[0].cpu().numpy()
            return blocks

    def cells(self, found: Results, count: int) -> Iterator[CellPixels]:
        """The first `count` cells of a batch, as arrays."""
        return _cells(found, count)

    def networks(self, image: Tensor, maps: Tensor | None, geometry: PatchGeometry) -> None:
        """The networks alone, for measuring: float (N, 3, P, P), and (N, C, W, W) for both inputs of the refiner."""
        self._logits(image)
        if maps is not None:
            refiner = self._refiners[self._spec.refiner_of[geometry.index - 1]]
            rgb = {"rgb": without_margin(image, (image.shape[-1] - maps.shape[-1]) // 2)} if uses_rgb(refiner) else {}
            self._refined(refiner, fine=maps, coarse=maps, **rgb)

    def _normalised(self, images: Tensor) -> Tensor:
        """uint8 (N, P, P, 3) to float32 (N, 3, P, P)."""
        return images.permute(0, 3, 1, 2).float().mul_(self._scale).add_(self._shift)

    def _logits(self, x: Tensor) -> Tensor:
        with computing_in(self._arithmetic.backbone, self.device):
            return self._network.logits(self._backbone, x, self.classes)

    def _distances(self, x: Tensor, geometry: PatchGeometry) -> Tensor:
        """Distances of a batch's blocks, float32 (N, blocks), after its logits have been computed."""
        usual = self._spec.profile.distances[geometry.index] if self._spec.profile and self._statistics else 0.0
        if self._tap is None or self._statistics is None or not usual:
            return torch.zeros(len(x), count_blocks(geometry.cell_px), device=x.device)
        blocks = block_features(self._tap.take(geometry.patch_px), x, geometry.halo_px)
        mean, whitening = self._statistics.mean[geometry.index], self._statistics.whitening[geometry.index]
        return distances_from(blocks, mean, whitening, MOST_TIMES * usual)

    def _segment_fine(self, x: Tensor, geometry: PatchGeometry, margin_px: int) -> Tensor:
        """Normalised RGB, float32 (N, 3, P, P), to probabilities float32 (N, C, W, W)."""
        logits = self._logits(x)
        return self._probabilities(without_margin(logits, geometry.halo_px - margin_px), geometry.index)

    def _probabilities(self, logits: Tensor, scale: int) -> Tensor:
        maps = torch.empty(logits.shape, device=logits.device).copy_(logits)  # float32, channels first
        temperature = self._spec.temperature[scale]
        return (maps if temperature == 1 else maps.div_(temperature)).softmax(dim=1)


def upsample_only(coarse: Pixels, spec: BundleSpec, margin_px: int = 0) -> CellPixels:
    """The coarser result of a cell at the next scale, upsampled; a cell that was not analysed stays so.

    coarse: uint8 (C, W / 2 + 2, W / 2 + 2), the stored probabilities under the cell, `margin_px` and a pixel more round
    it. Takes no network, and runs on the CPU: too little work to be worth a transfer.
    """
    edge = margin_px // 2 + 1
    cell_px = 2 * (coarse.shape[-1] - 2 * edge)
    if (coarse[:, edge:-edge, edge:-edge] == UNKNOWN).all():
        return not_analysed(len(spec.classes), cell_px)
    with torch.inference_mode():
        prior = _prior(len(spec.classes), spec.background_index)
        stored = torch.from_numpy(coarse[None])
        maps = without_margin(_upsample(stored, prior), margin_px)
        unknown = torch.zeros(1, count_blocks(cell_px))
        pixels = next(_cells(_results(maps, [c.value for c in spec.classes], unknown), 1))
        if spec.background_index is not None:
            return pixels
        # Without a background class nothing is stored on glass; its border is upsampled as probabilities are.
        covered = (stored > 0).any(dim=1, keepdim=True)
        if covered.all():
            return pixels
        inside = without_margin(upsample_inner(covered.float()), margin_px)[0, 0] >= 0.5
        return clear_outside(pixels, inside.numpy(), None)


def _upsample(stored: Tensor, prior: Tensor) -> Tensor:
    """uint8 (N, C, W / 2 + 2, W / 2 + 2) to float32 (N, C, W, W); where nothing was stored, the prior."""
    p = stored.float()
    total = p.sum(dim=1, keepdim=True)
    if p.device.type == "cpu" and total.min() > 0:
        p.div_(total)
    else:
        p = torch.where(total > 0, p / total.clamp(min=1), prior)
    return upsample_inner(p)


def _results(p: Tensor, values: Sequence[int], distances: Tensor, before: Tensor | None = None) -> Results:
    """Float (N, C, S, S) to the bytes that are stored; little more leaves the device.

    distances: of the blocks, float32 (N, blocks). before: the coarser result, likewise, where the cell was refined.
    """
    stored, labels = (p * 255).round_().to(torch.uint8), _likeliest(p, values)
    if before is None:
        changed_px = torch.zeros(len(p), dtype=torch.int32, device=p.device)
    else:
        changed_px = (_likeliest(before, values) != labels).sum(dim=(1, 2), dtype=torch.int32)
    return Results(labels, _margin_uncertainty(stored), stored, distances, changed_px)


def _cells(found: Results, count: int) -> Iterator[CellPixels]:
    """The first `count` cells of a batch, as arrays."""
    labels, uncertainty, probabilities, distances, changed_px = (tensor.cpu().numpy() for tensor in found)
    for i in range(count):
        yield CellPixels(probabilities[i], labels[i], uncertainty[i], distances[i], int(changed_px[i]))


def _likeliest(p: Tensor, values: Sequence[int]) -> Tensor:
    """Float (N, C, H, W) to uint8 (N, H, W): the value of the largest channel, the first of equals.

    Equal to `argmax`, in a tenth of its time on a CPU.
    """
    largest, *others = p.unbind(dim=1)
    found = torch.full(largest.shape, values[0], dtype=torch.uint8, device=p.device)
    for value, one in zip(values[1:], others, strict=True):
        larger = (one > largest).view(torch.uint8)
        found.mul_(1 - larger).add_(larger * value)
        largest = torch.maximum(largest, one)
    return found


def _margin_uncertainty(stored: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to uint8 (N, H, W): 255 - (largest - second), in whole numbers."""
    first, second, *others = stored.unbind(dim=1)
    first, second = torch.maximum(first, second), torch.minimum(first, second)
    for one in others:
        second = torch.maximum(second, torch.minimum(first, one))
        first = torch.maximum(first, one)
    return 255 - (first - second)


def _rgb(images: Tensor) -> Tensor:
    """uint8 (N, P, P, 3) to float32 (N, 3, P, P), 0 to 1."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def not_analysed(classes: int, cell_px: int) -> CellPixels:
    """Result of a cell that no scale could read."""
    square = (cell_px, cell_px)
    return CellPixels(
        np.full((classes, *square), UNKNOWN, np.uint8),
        np.full(square, NOT_ANALYSED, np.uint8),
        np.full(square, 255, np.uint8),
    )


def _on_device(statistics: FeatureStatistics | None, device: torch.device) -> FeatureStatistics | None:
    if statistics is None:
        return None
    return FeatureStatistics(statistics.mean.to(device), statistics.whitening.to(device))


def _prior(classes: int, background_index: int | None) -> torch.Tensor:
    """Probabilities (1, C, 1, 1) of pixels that were not analysed: background, or uniform if the bundle has none."""
    prior = torch.full((classes,), 1 / classes)
    if background_index is not None:
        prior = F.one_hot(torch.tensor(background_index), classes).float()
    return prior.view(1, classes, 1, 1)
