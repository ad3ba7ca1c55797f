"""Sampling of crop locations: round labelled pixels, rare classes more often than they occur, all sites equally often,
and all groups of a site.

Draws numbers only; reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

import numpy as np
import numpy.typing as npt

from wsi_magnet.dataset.label_counts import LabelCounts
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.geometry import Box
from wsi_magnet.scales import Scale

Rng = np.random.Generator

_BlocksBySite = dict[str, dict[str, list[tuple[Sample, npt.NDArray[np.intp]]]]]
"""Samples with rows and columns of their blocks, (N, 2), by site and group."""


@dataclass(frozen=True, slots=True)
class CropLocation:
    """Location of a crop."""

    sample: Sample
    centre_xy: tuple[float, float]
    """Centre in level-0 pixels, from the canvas's corner."""


class CropSampler:
    """Draws crop locations: a class, a site that has it, a group of the site, a sample of the group, a block of the
    sample, a point in the block.
    """

    def __init__(self, label_counts: Mapping[Sample, LabelCounts], n_classes: int, balance: float) -> None:
        """balance: the power of a class's pixels by which it is drawn, 1 as often as it occurs, 0 all alike."""
        pixels = class_pixels(label_counts, n_classes)
        shares = np.where(pixels > 0, np.maximum(pixels, 1) ** balance, 0.0)
        self._shares = shares / shares.sum()
        self._surveys = label_counts
        self._blocks = [_blocks_of(label_counts, index) for index in range(n_classes)]

    def draw(self, rng: Rng) -> CropLocation:
        """A location; the same for the same state of the generator."""
        by_site = self._blocks[int(rng.choice(len(self._shares), p=self._shares))]
        # A single site is not drawn: manifests without this column give the crops that they always gave.
        by_group = by_site[sorted(by_site)[int(rng.integers(len(by_site))) if len(by_site) > 1 else 0]]
        samples = by_group[sorted(by_group)[int(rng.integers(len(by_group)))]]
        sample, blocks = samples[int(rng.integers(len(samples)))]
        row, col = blocks[int(rng.integers(len(blocks)))]
        counted = self._surveys[sample]
        x, y = (float(n + rng.random()) * counted.block_px for n in (col, row))
        return CropLocation(sample, (x * counted.scale.downsample_xy[0], y * counted.scale.downsample_xy[1]))


def _blocks_of(label_counts: Mapping[Sample, LabelCounts], index: int) -> _BlocksBySite:
    """Blocks that hold a class."""
    found: _BlocksBySite = {}
    for sample, counted in label_counts.items():
        blocks = np.argwhere(counted.presence >> np.uint32(index) & 1)
        if len(blocks):
            found.setdefault(sample.site, {}).setdefault(sample.group, []).append((sample, blocks))
    return found


def class_pixels(label_counts: Mapping[Sample, LabelCounts], n_classes: int) -> npt.NDArray[np.float64]:
    """Labelled pixels of each class over all samples."""
    return np.asarray(sum(counted.class_pixels(n_classes) for counted in label_counts.values()), np.float64)


def jitter(mpp: float, factor: float, rng: Rng) -> float:
    """`mpp` times a log-uniform number between 1 / `factor` and `factor`."""
    return mpp * exp(rng.uniform(-log(factor), log(factor))) if factor > 1 else mpp


def box_round(centre_xy: tuple[float, float], scale: Scale, side_px: int, rng: Rng) -> Box:
    """Crop of a scale round a point of level 0, moved onto the canvas as far as it fits.

    A canvas that is smaller than the crop lies at a random position in it.
    """
    x, y = (
        _corner(centre / downsample, side_px, length, rng)
        for centre, downsample, length in zip(centre_xy, scale.downsample_xy, scale.size.wh, strict=True)
    )
    return Box(x, y, x + side_px, y + side_px)


def _corner(centre_px: float, side_px: int, length_px: int, rng: Rng) -> int:
    if length_px <= side_px:
        return -int(rng.integers(side_px - length_px + 1))
    return int(np.clip(round(centre_px - side_px / 2), 0, length_px - side_px))
