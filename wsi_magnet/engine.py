"""A bundle at work on a device: uint8 patches in, uint8 cells out, one MagNet step in between.

Every patch has the same shape and every batch is filled up to the same size, so a patch's result does not depend on
which others it came with: that is what makes the mask independent of tiles and workers, bit for bit on CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from wsi_magnet.config import CELL_PX, Precision, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.ngff import NOT_ANALYSED
from wsi_magnet.plan import Frame
from wsi_magnet.refine.points import mixing_weight
from wsi_magnet.refine.step import magnet_step, refine_patch
from wsi_magnet.refine.uncertainty import query_score
from wsi_magnet.stitch import CellPixels

Pixels = npt.NDArray[np.uint8]

UNKNOWN = 1
"""Stored probability of every class where a cell could not be analysed. Real ones add up to about 255, and cells
without tissue hold 0, so the three cannot be taken for each other."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DEFAULT_BATCH = {"cpu": 1, "cuda": 8}


@dataclass(frozen=True, eq=False)
class PatchInput:
    """What the networks need for one cell."""

    image: Pixels | None
    """uint8 (patch, patch, 3); None carries the coarser result over."""
    coarse: Pixels | None
    """uint8 (classes, patch / 2 + 2, patch / 2 + 2) from the coarser scale; None at the coarsest."""


class Engine:
    """Runs a bundle's networks; safe to use from several threads."""

    def __init__(self, bundle: Bundle, device: torch.device, config: RunConfig) -> None:
        self._spec = bundle.spec
        self._device = device
        folded = bundle.folded()
        # Channels last is how a processor's convolutions like them best; the refiner takes two thirds of its time.
        self._backbone, *self._refiners = (
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for net in (folded.backbone, *folded.refiners)
        )
        self.batch_size = config.batch_size or _DEFAULT_BATCH.get(device.type, 1)
        self._dtype = _DTYPES[resolve_precision(config.precision, device)]
        spec = self._spec
        self.classes = len(spec.classes)
        self._mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)
        self._values = torch.tensor([c.value for c in spec.classes], dtype=torch.uint8, device=device)
        self._prior = _prior(self.classes, spec.background_index).to(device)

    def segment(self, inputs: Sequence[PatchInput], frame: Frame) -> Iterator[CellPixels]:
        """Results of up to `batch_size` patches that all have an image, in their order."""
        missing = self.batch_size - len(inputs)
        images = np.stack([i.image for i in inputs if i.image is not None] + [_blank(frame)] * missing)
        with torch.inference_mode():
            fine = self._look(images, frame)
            if inputs[0].coarse is None:
                merged = fine
            else:
                coarse = np.stack([i.coarse for i in inputs if i.coarse is not None])
                coarse = np.concatenate([coarse, np.zeros((missing, *coarse.shape[1:]), np.uint8)])
                merged = self._refine(fine=fine, coarse=self._upsample(coarse), frame=frame)
            yield from self._cells(merged[: len(inputs)], frame)

    def carry(self, item: PatchInput, frame: Frame) -> CellPixels:
        """The coarser result at this scale: upsampled, nothing else; a cell that was not analysed stays so."""
        assert item.coarse is not None
        half, edge = CELL_PX // 2, frame.halo_px // 2 + 1
        if (item.coarse[:, edge : edge + half, edge : edge + half] == UNKNOWN).all():
            return not_analysed(self.classes)
        with torch.inference_mode():
            return next(self._cells(self._upsample(item.coarse[None]), frame))

    def _look(self, images: Pixels, frame: Frame) -> torch.Tensor:
        """uint8 (N, P, P, 3) -> probabilities float32 (N, C, P, P)."""
        x = (
            torch.from_numpy(images)
            .to(self._device)
            .permute(0, 3, 1, 2)
            .float()
            .div_(255)
            .sub_(self._mean)
            .div_(self._std)
        )
        with self._autocast():
            logits: torch.Tensor = self._backbone(x)
        return (logits.float() / self._spec.temperature[frame.scale.index]).softmax(dim=1)

    def _refine(self, *, fine: torch.Tensor, coarse: torch.Tensor, frame: Frame) -> torch.Tensor:
        """One MagNet step (paper, section 3.3), both float32 (N, C, P, P)."""
        spec, step = self._spec, frame.scale.index - 1
        refiner = self._refiners[spec.refiner_of[step]]
        with self._autocast():
            refined = refine_patch(fine=fine, coarse=coarse, refiner=refiner)
        side = frame.patch_px // frame.ratio
        score = query_score(coarse=coarse, refined=refined, grid_hw=(side, side), median_px=spec.median_px)
        selected = mixing_weight(score, spec.select_above[step], spec.width_of(step))
        return magnet_step(coarse=coarse, refined=refined, selected=selected)

    def _upsample(self, stored: Pixels) -> torch.Tensor:
        """uint8 (N, C, P/2 + 2, P/2 + 2) -> float32 (N, C, P, P); where nothing was stored, the prior."""
        p = torch.from_numpy(np.ascontiguousarray(stored)).to(self._device).float()
        total = p.sum(dim=1, keepdim=True)
        p = torch.where(total > 0, p / total.clamp(min=1), self._prior)
        return F.interpolate(p, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]

    def _cells(self, merged: torch.Tensor, frame: Frame) -> Iterator[CellPixels]:
        """Cut the halo off and quantise, on the device: only bytes come back."""
        inner = slice(frame.halo_px, frame.halo_px + CELL_PX)
        p = merged[..., inner, inner]
        labels = self._values[p.max(dim=1).indices].cpu().numpy()
        stored = (p * 255).round().to(torch.uint8)
        uncertainty = _margin_uncertainty(stored).cpu().numpy()
        for one, label, unsure in zip(stored.cpu().numpy(), labels, uncertainty, strict=True):
            yield CellPixels(one, label, unsure)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)


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


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """The arithmetic of that name: "auto" is fp32 on CPU, where results are to be exact, and fp16 on CUDA."""
    if precision == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16 needs a CUDA device; on CPU pass fp32 or bf16")
    return precision


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


def _margin_uncertainty(stored: torch.Tensor) -> torch.Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, H, W): 255 - (largest - second), in whole numbers."""
    top = stored.max(dim=1, keepdim=True)
    rest = stored.scatter(1, top.indices, 0).max(dim=1).values
    return 255 - (top.values[:, 0] - rest)


def _blank(frame: Frame) -> Pixels:
    return np.zeros((frame.patch_px, frame.patch_px, 3), np.uint8)
