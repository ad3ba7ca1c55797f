"""Views: a window of a slide at every scale of the ladder, each with the halo of a run.

C: classes, w: side of the window at a scale, p: side of the patch round it. A view's windows show the same place, so
each is twice as many pixels as the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsi_magnet.dataset.open_sample import OpenSample, SamplePool
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.geometry import Box, round_up
from wsi_magnet.nets.network import Normalisation
from wsi_magnet.planning.plan import CONTEXT_PX
from wsi_magnet.scales import Scale
from wsi_magnet.slides.types import Image
from wsi_magnet.train.augment import Augmentation, draw_augmentation
from wsi_magnet.train.config import AugmentConfig
from wsi_magnet.train.glass import draw_glass, narrowed
from wsi_magnet.train.sampler import CropSampler, box_round, jitter

STRIDE = 32
"""Patches are multiples of every network's deepest stride."""

IDENTITY = Augmentation()

GLASS_SEED = 4
"""Seed of the glass in validation views."""


@dataclass(frozen=True, eq=False)
class View:
    """One window at every scale, coarse to fine."""

    patches: tuple[Image, ...]
    """uint8 (p, p, 3) RGB: the window with its halo, the same on every side."""
    sets: tuple[npt.NDArray[np.uint32], ...]
    """uint32 (w, w), of the window alone."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Sizes of the windows of a view and of their halos."""

    side_px: int
    """Side at the finest scale; half of it at the scale before, and so on."""
    halo_px: int
    mpps: tuple[float, ...]
    """Microns per pixel of the scales, coarse to fine."""

    @property
    def scales(self) -> int:
        """Number of scales."""
        return len(self.mpps)

    @property
    def side_um(self) -> float:
        """Side in microns."""
        return self.side_px * self.mpps[-1]

    def window_px(self, scale: int) -> int:
        """Side of the window at a scale."""
        return self.side_px >> (self.scales - 1 - scale)

    def patch_px(self, scale: int) -> int:
        """Side of the patch at a scale: at least what a run would show round the window."""
        halo = max(self.halo_px, CONTEXT_PX) if scale == 0 else self.halo_px
        return round_up(self.window_px(scale) + 2 * halo, STRIDE)

    def halo_at(self, scale: int) -> int:
        """Margin round the window."""
        return (self.patch_px(scale) - self.window_px(scale)) // 2


def ladder_at(opened: OpenSample, mpps: Sequence[float], factor: float = 1.0) -> tuple[Scale, ...]:
    """The scales of a sample as if its pixels were `factor` times as large."""
    return tuple(opened.scale(mpp * factor) for mpp in mpps)


def read_view(
    opened: OpenSample,
    scales: Sequence[Scale],
    corner_yx: tuple[int, int],
    windows: Windows,
    augmentation: Augmentation = IDENTITY,
    rng: np.random.Generator | None = None,
    background: int | None = None,
) -> View:
    """Read a view and augment it.

    corner_yx: of its window, in pixels of the coarsest scale; may lie beyond the canvas, as long as some of the window
    does not. rng: draws the annotator where several are to be taken one at a time. background: label set of the
    background class alone.
    """
    patches, sets = [], []
    # One annotator for all scales: a run is to reproduce one person's labels, not a mixture by scale.
    seed = None if rng is None else int(rng.integers(2**32))
    for index, (scale, mpp) in enumerate(zip(scales, windows.mpps, strict=True)):
        side = windows.window_px(index)
        y, x = (corner << index for corner in corner_yx)
        box = Box(x, y, x + side, y + side)
        halo = windows.halo_at(index)
        patch = opened.image(scale, box.grow(halo))
        patches.append(augmentation.image(patch, mpp))
        one = None if seed is None else np.random.default_rng(seed)
        shown = patch[halo : halo + side, halo : halo + side]
        known = narrowed(opened.sets(scale, box, one), shown, mpp, background, opened.ignored)
        sets.append(augmentation.labels(known, opened.ignored, mpp))
    return View(tuple(patches), tuple(sets))


def validation_views(
    pool: SamplePool,
    samples: Sequence[Sample],
    windows: Windows,
    most: int,
    background: int | None = None,
) -> list[View]:
    """Views that cover the labelled part of some samples, at most so many, evenly taken; always the same ones.

    background: label set of the background class alone; with one, every second view is there once more with glass
    painted into it.
    """
    places = [place for sample in samples for place in _places(pool.get(sample), windows)]
    step = max(1.0, len(places) / most)
    chosen = [places[int(i * step)] for i in range(min(most, len(places)))]
    views = []
    for number, (sample, corner_yx) in enumerate(chosen):
        opened = pool.get(sample)
        scales = ladder_at(opened, windows.mpps)
        augmentations = [IDENTITY]
        if background is not None and number % 2 == 0:
            rng = np.random.default_rng([GLASS_SEED, number])
            augmentations.append(Augmentation(glass=draw_glass(rng, windows.side_um, background)))
        views += [read_view(opened, scales, corner_yx, windows, one, background=background) for one in augmentations]
    return views


def _places(opened: OpenSample, windows: Windows) -> Iterator[tuple[Sample, tuple[int, int]]]:
    """Corners of windows side by side over a sample, those with a label."""
    coarsest = opened.scale(windows.mpps[0])
    side = windows.window_px(0)
    for y, x in product(_starts(coarsest.size.height, side), _starts(coarsest.size.width, side)):
        if (opened.sets(coarsest, Box(x, y, x + side, y + side)) != opened.ignored).any():
            yield opened.sample, (y, x)


def _starts(length: int, side: int) -> range | list[int]:
    """Fewest starts that cover the length; the last window ends with the length, unless the length is smaller."""
    if length <= side:
        return [0]
    return [*range(0, length - side, side), length - side]


IMAGENET = Normalisation()


def to_tensor(images: Sequence[Image] | Image, device: torch.device, normalisation: Normalisation = IMAGENET) -> Tensor:
    """uint8 (H, W, 3) each to float32 (N, 3, H, W) on a device, less the mean and over the deviation."""
    stacked = torch.from_numpy(np.stack([np.ascontiguousarray(image) for image in images])).to(device)
    scaled = normalisation.of(stacked.permute(0, 3, 1, 2).float().div_(255))
    return scaled.contiguous(memory_format=torch.channels_last)


def to_sets(sets: Sequence[npt.NDArray[np.uint32]] | npt.NDArray[np.uint32], device: torch.device) -> Tensor:
    """uint32 (H, W) each to int32 (N, H, W)."""
    stacked = np.stack([np.ascontiguousarray(one) for one in sets])
    return torch.from_numpy(stacked.view(np.int32)).to(device)


@dataclass(frozen=True, eq=False)
class StageData:
    """Open training and validation rows, for both stages."""

    pool: SamplePool
    sampler: CropSampler
    """Sampler of crop locations in the training rows."""
    weights: Tensor | None
    """float32 (C,): weight of each class's pixels in the loss; None for equal weights."""
    views: tuple[View, ...]
    """Views of the validation rows."""
    windows: Windows
    """Window sizes of these views."""
    part_of: tuple[int, ...]
    """Index of the part of each class; see `annotations.partition`."""
    background: int | None
    """Label set of the background class alone; None without one."""

    def without_views(self) -> StageData:
        """The part that drawing needs, small enough to be sent to other processes."""
        return replace(self, views=(), weights=None)


@dataclass(frozen=True, eq=False)
class DrawViews:
    """Draws the views of a batch, each a function of seeds, step and place in the batch; small and picklable."""

    data: StageData
    """Without views."""
    windows: Windows
    augment: AugmentConfig
    seeds: tuple[int, int]
    """Seeds of training and stage."""

    def __call__(self, step: int, mine: range) -> list[View]:
        """Items `mine` of a step's batch."""
        rngs = [np.random.default_rng([*self.seeds, step, i]) for i in mine]
        return [draw_view(self.data, self.windows, self.augment, rng) for rng in rngs]


def draw_view(data: StageData, windows: Windows, augment: AugmentConfig, rng: np.random.Generator) -> View:
    """An augmented view of the training rows; the same for the same state of the generator."""
    location = data.sampler.draw(rng)
    opened = data.pool.get(location.sample)
    scales = ladder_at(opened, windows.mpps, jitter(1.0, augment.scale_jitter, rng))
    box = box_round(location.centre_xy, scales[0], windows.window_px(0), rng)
    augmentation = draw_augmentation(augment, rng, extent_um=windows.side_um, background=data.background)
    return read_view(opened, scales, (box.y0, box.x0), windows, augmentation, rng, data.background)
