"""A bundle at work on a device: uint8 patches in, uint8 cells out, one MagNet step in between.

Every patch has the same shape and every batch is filled up to the same size, so a patch's result does not depend on
which others it came with: that is what makes the mask independent of tiles and workers, bit for bit on CPU.

N: patches of a batch, P: side of a patch, W: side of the part of it that the cell's result depends on, C: classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_magnet.config import CELL_PX, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import round_up
from wsi_magnet.inference.optimize import ARITHMETIC, computing_in, inference_form, resolve_precision
from wsi_magnet.inference.tiles import CellPixels
from wsi_magnet.labels import NOT_ANALYSED
from wsi_magnet.magnet.grid_selection import may_select, refined_pixels, select_on_grid, spread
from wsi_magnet.magnet.sparse import refine_blocks
from wsi_magnet.magnet.step import magnet_step, refine_patch
from wsi_magnet.magnet.upsample import double_inside
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.planning.plan import ScaleLayout

Pixels = npt.NDArray[np.uint8]

UNKNOWN = 1
"""Stored probability of every class where a cell could not be analysed. Real ones add up to about 255, and cells
without tissue hold 0, so the three cannot be taken for each other."""

_BATCHES = ((30, 16), (14, 8), (0, 4))
"""GiB that a GPU has at least, and patches it then gets at a time; ResNet50-FPN takes a quarter of a GiB for each."""

_ROUNDING = 1e-4
"""By how much less than the threshold a score may be before it is certain that it would not reach it, computed
otherwise."""


@dataclass(frozen=True, eq=False)
class PatchInput:
    """What the networks need for one cell."""

    image: Pixels
    """uint8 (P, P, 3)."""
    coarse: Pixels | None
    """uint8 (C, W / 2 + 2, W / 2 + 2) from the coarser scale; None at the coarsest."""


class Results(NamedTuple):
    """Cells of a batch, on the device, uint8 (N, [C,] CELL_PX, CELL_PX)."""

    labels: Tensor
    """The likeliest class's value."""
    uncertainty: Tensor
    """255 - (largest - second), of the bytes."""
    probabilities: Tensor
    """255 = 1."""


class Engine:
    """Runs a bundle's networks; safe to use from several threads."""

    def __init__(self, bundle: Bundle, device: torch.device, config: RunConfig) -> None:
        self._spec = spec = bundle.spec
        self.device = device
        self._arithmetic = ARITHMETIC[resolve_precision(config.precision, device)]
        self._backbone = inference_form(bundle.backbone, device, self._arithmetic.backbone)
        self._refiners = [inference_form(net, device, self._arithmetic.refiner) for net in bundle.refiners]
        self._reach = [getattr(refiner, "reach_px", None) for refiner in bundle.refiners]
        self.batch_size = config.batch_size or _default_batch(device)
        self.classes = len(spec.classes)
        scale = 1 / (255 * torch.tensor(spec.std))
        self._scale, self._shift = (
            values.to(device).view(1, 3, 1, 1) for values in (scale, -255 * torch.tensor(spec.mean) * scale)
        )
        self._values = [c.value for c in spec.classes]
        self.values = tuple(sorted({0, *(c.value for c in spec.classes), NOT_ANALYSED}))
        self._prior = _prior(self.classes, spec.background_index)
        self._prior_there = self._prior.to(device)

    def margin_px(self, frame: ScaleLayout) -> int:
        """How far round a cell its result depends on the maps: the refiner's reach, and the median's, at most the halo.

        What the networks see of the picture is the whole patch.
        """
        if frame.scale.index == 0:
            return 0
        reach = self._reach[self._step(frame)]
        if reach is None:
            return frame.halo_px
        return min(frame.halo_px, round_up(self._blur_px(frame) + reach, 2))

    def certain(self, coarse: Pixels, frame: ScaleLayout) -> bool:
        """True where refining a cell could change nothing of it: no score can reach the threshold of its scale.

        coarse: as in `PatchInput`.
        """
        if self._spec.select_above[frame.scale.index - 1] <= _ROUNDING:
            return False
        with torch.inference_mode():
            maps = self._upsample(torch.from_numpy(coarse[None]), self._prior)
            found = self._selectable(_inner(maps, self.margin_px(frame) - self._blur_px(frame)), frame)
            return not _inner(found, self._spec.median_px // 2).any()

    def segment(self, inputs: Sequence[PatchInput], frame: ScaleLayout) -> Iterator[CellPixels]:
        """Results of up to `batch_size` patches, in their order."""
        images, coarse = self.batch_of(inputs)
        with torch.inference_mode():
            there = None if coarse is None else coarse.to(self.device)
            found = self.compute(images.to(self.device), there, frame)
            yield from self.cells(found, len(inputs))

    def carry(self, coarse: Pixels, frame: ScaleLayout) -> CellPixels:
        """The coarser result at this scale: upsampled, nothing else; a cell that was not analysed stays so.

        coarse: as in `PatchInput`. Always on the processor: it is little, and a GPU has better to do.
        """
        half, edge = CELL_PX // 2, self.margin_px(frame) // 2 + 1
        if (coarse[:, edge : edge + half, edge : edge + half] == UNKNOWN).all():
            return not_analysed(self.classes)
        with torch.inference_mode():
            maps = self._upsample(torch.from_numpy(coarse[None]), self._prior)
            return next(self.cells(self._results(_inner(maps, self.margin_px(frame))), 1))

    def batch_of(self, inputs: Sequence[PatchInput]) -> tuple[Tensor, Tensor | None]:
        """Images uint8 (batch_size, P, P, 3) and coarser maps, filled up with nought, for the device to copy."""
        maps = [i.coarse for i in inputs if i.coarse is not None]
        return self._filled([i.image for i in inputs]), self._filled(maps) if maps else None

    def _filled(self, parts: Sequence[Pixels]) -> Tensor:
        if len(parts) == self.batch_size == 1:
            return torch.from_numpy(parts[0][None])
        shape = (self.batch_size, *parts[0].shape)
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        filled = batch.numpy()
        for place, part in enumerate(parts):
            filled[place] = part
        filled[len(parts) :] = 0
        return batch

    def compute(self, images: Tensor, coarse: Tensor | None, frame: ScaleLayout) -> Results:
        """All that is done on the device: uint8 (N, P, P, 3), and (N, C, W / 2 + 2, W / 2 + 2) but for the coarsest.

        Does nothing that waits for the device, so that it can be queued, or recorded once and replayed.
        """
        margin = self.margin_px(frame)
        fine = self._look(images, frame, margin)
        if coarse is None:
            return self._results(fine)
        y = self._upsample(coarse, self._prior_there)
        return self._results(self._refine(fine=fine, coarse=y, frame=frame))

    def cells(self, found: Results, count: int) -> Iterator[CellPixels]:
        """The first `count` cells of a batch, as arrays."""
        labels, uncertainty, probabilities = (tensor.cpu().numpy() for tensor in found)
        for i in range(count):
            yield CellPixels(probabilities[i], labels[i], uncertainty[i])

    def networks(self, image: Tensor, maps: Tensor | None, frame: ScaleLayout) -> None:
        """The networks alone, for measuring: float (N, 3, P, P), and (N, C, W, W) for both inputs of the refiner."""
        with computing_in(self._arithmetic.backbone, self.device):
            self._backbone(image)
        if maps is not None:
            with computing_in(self._arithmetic.refiner, self.device):
                self._refiners[self._step(frame)](fine=maps, coarse=maps)

    def _look(self, images: Tensor, frame: ScaleLayout, margin_px: int) -> Tensor:
        """uint8 (N, P, P, 3) to probabilities float32 (N, C, W, W)."""
        x = images.permute(0, 3, 1, 2).float().mul_(self._scale).add_(self._shift)
        with computing_in(self._arithmetic.backbone, self.device):
            logits: Tensor = self._backbone(x)
        needed = _inner(logits, frame.halo_px - margin_px)
        maps = torch.empty(needed.shape, device=needed.device).copy_(needed)  # float32, channels first
        temperature = self._spec.temperature[frame.scale.index]
        return (maps if temperature == 1 else maps.div_(temperature)).softmax(dim=1)

    def _refine(self, *, fine: Tensor, coarse: Tensor, frame: ScaleLayout) -> Tensor:
        """One MagNet step (paper, section 3.3): both float32 (N, C, W, W), to the cell's, (N, C, CELL_PX, CELL_PX)."""
        spec, step = self._spec, frame.scale.index - 1
        with computing_in(self._arithmetic.refiner, self.device):
            refined = self._refined(fine, coarse, frame)
        blur_px, margin_px = self._blur_px(frame), self.margin_px(frame)
        weight = select_on_grid(
            coarse=_inner(coarse, margin_px - blur_px),
            refined=_inner(refined, margin_px - blur_px),
            ratio=frame.ratio,
            above=spec.select_above[step],
            width=spec.width_of(step),
            median_px=spec.median_px,
        )
        selected = spread(_inner(weight, spec.median_px // 2), frame.ratio)
        if self.device.type != "cpu" and not spec.width_of(step):
            selected = selected > 0
        return magnet_step(coarse=_inner(coarse, margin_px), refined=_inner(refined, margin_px), selected=selected)

    def _refined(self, fine: Tensor, coarse: Tensor, frame: ScaleLayout) -> Tensor:
        """R, both arguments and the result float32 (N, C, W, W); on a processor only where it can be selected.

        A GPU is quicker with all of a batch than with parts of it.
        """
        refiner, reach = self._refiners[self._step(frame)], self._reach[self._step(frame)]
        if self.device.type != "cpu" or reach is None:
            return refine_patch(fine=fine, coarse=coarse, refiner=refiner)
        if len(fine) > 1:
            pairs = zip(fine.split(1), coarse.split(1), strict=True)
            return torch.cat([self._refined(o, y, frame) for o, y in pairs])
        around = self.margin_px(frame) - self._blur_px(frame)
        selectable = self._selectable(_inner(coarse, around), frame)
        rim, median_px = self._spec.median_px // 2, self._spec.median_px
        looked_at = refined_pixels(selectable, rim=rim, ratio=frame.ratio, median_px=median_px)
        needed = F.pad(looked_at, (around,) * 4)
        return refine_blocks(fine=fine, coarse=coarse, refiner=refiner, needed=needed, reach_px=reach)

    def _selectable(self, coarse: Tensor, frame: ScaleLayout) -> Tensor:
        """Which blocks could take anything of R, whatever it says: bool (N, 1, h, w), the blocks that medians need
        round the cell included.
        """
        above = self._spec.select_above[frame.scale.index - 1] - _ROUNDING
        return may_select(coarse=coarse, ratio=frame.ratio, above=above, median_px=self._spec.median_px)

    def _upsample(self, stored: Tensor, prior: Tensor) -> Tensor:
        """uint8 (N, C, W / 2 + 2, W / 2 + 2) to float32 (N, C, W, W); where nothing was stored, the prior."""
        p = stored.float()
        total = p.sum(dim=1, keepdim=True)
        if p.device.type == "cpu" and total.min() > 0:
            p.div_(total)
        else:
            p = torch.where(total > 0, p / total.clamp(min=1), prior)
        return double_inside(p)

    def _results(self, p: Tensor) -> Results:
        """Float (N, C, CELL_PX, CELL_PX) to what is kept of it: a byte is enough, and all that leaves the device."""
        stored = (p * 255).round_().to(torch.uint8)
        return Results(_likeliest(p, self._values), _margin_uncertainty(stored), stored)

    def _step(self, frame: ScaleLayout) -> int:
        return self._spec.refiner_of[frame.scale.index - 1]

    def _blur_px(self, frame: ScaleLayout) -> int:
        """How far the median reaches, in pixels of the scale."""
        return self._spec.median_px // 2 * frame.ratio


def _likeliest(p: Tensor, values: Sequence[int]) -> Tensor:
    """Float (N, C, H, W) to uint8 (N, H, W): the value of the largest channel, the first of equals.

    As `argmax` says, in a tenth of its time on a processor.
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


def _inner(maps: Tensor, margin: int) -> Tensor:
    """Without so many rows and columns on each side; a view."""
    return maps[..., margin : maps.shape[-2] - margin, margin : maps.shape[-1] - margin] if margin else maps


def not_analysed(classes: int) -> CellPixels:
    """The result of a cell that could not be read."""
    square = (CELL_PX, CELL_PX)
    return CellPixels(
        np.full((classes, *square), UNKNOWN, np.uint8),
        np.full(square, NOT_ANALYSED, np.uint8),
        np.full(square, 255, np.uint8),
    )


def resolve_device(name: str) -> torch.device:
    """The device of that name, "auto" being CUDA where there is one; raises ConfigError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ConfigError(
            f"--device {name}: torch {torch.__version__} sees {found} CUDA devices here; pass --device cpu"
        )
    return device


def gpu_gib(device: torch.device) -> float:
    """Memory of a CUDA device, in GiB."""
    return float(torch.cuda.get_device_properties(device).total_memory / 2**30)


def _default_batch(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    gib = gpu_gib(device)
    return next(patches for least, patches in _BATCHES if gib >= least)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Within it, torch uses one thread for this thread's work: the workers' threads are the parallelism.

    Besides avoiding oversubscription this keeps the order of additions, and with it every bit, the same on any machine
    size.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prior(classes: int, background_index: int | None) -> torch.Tensor:
    """Probabilities (1, C, 1, 1) where nothing was analysed: background, or even odds if the bundle has none."""
    prior = torch.full((classes,), 1 / classes)
    if background_index is not None:
        prior = F.one_hot(torch.tensor(background_index), classes).float()
    return prior.view(1, classes, 1, 1)
