"""Profile of a bundle: its annotated images segmented in memory as a run does it, and what is kept of the numbers.

A slide is compared with these numbers (`results.alarms`), and so is the training itself (`train.alarms`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsi_magnet.annotations.types import Sets
from wsi_magnet.dataset.label_counts import LabelCounts, count_manifest_labels
from wsi_magnet.dataset.manifest import read_manifest
from wsi_magnet.dataset.open_sample import OpenSample, SamplePool
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import ConfigError, TrainingError
from wsi_magnet.geometry import Box, Size, ceil_div
from wsi_magnet.inference.devices import resolve_device
from wsi_magnet.inference.engine import Engine, PatchInput
from wsi_magnet.inference.tiles import CellPixels, Region, coarse_box, tissue_blocks
from wsi_magnet.nets.bundle import Bundle, FeatureStatistics, load_bundle, save_bundle
from wsi_magnet.nets.profile import TrainingProfile
from wsi_magnet.nets.spec import BundleSpec, check_output
from wsi_magnet.planning.plan import PatchGeometry, grid_box, scale_halo_px
from wsi_magnet.text import counted
from wsi_magnet.train.alarms import TrainingNumbers

log = logging.getLogger(__name__)

Features = npt.NDArray[np.float32]
"""float32 (blocks, features)."""

MOST_ROWS = {"train": 24, "validation": 12, "test": 12}
"""Rows of each split that are surveyed, evenly taken."""

WINDOW_PX = 1024
"""Side of the part of an image that is surveyed, at the finest scale: the part with the most labels."""

SHRINKAGE = 0.1
"""Share of the identity in the correlation of the features, which few images leave uncertain: with it held-out RINGS
tiles lay within 0.9 of the most unusual one, and other organs beyond 1.3."""

LEAST_BLOCKS = 8
"""Least number of blocks from which the features of a scale are known."""

LEAST_ROWS = 3
"""Least number of images from which shares of classes are known."""

MOST_AMBIGUOUS = 0.05
"""Most share of an image's labels that leave the class open, for its shares of classes to count."""


@dataclass(frozen=True, eq=False)
class RowSurvey:
    """Numbers of one annotated image."""

    sample: Sample
    features: tuple[Features, ...]
    """Features of its labelled blocks at each scale; without rows for networks that have none."""
    uncertainty: tuple[float, ...]
    """Mean over its cells after each scale, 0 to 1."""
    changed: tuple[float, ...]
    """Share of the pixels to which each scale gave another label."""
    predicted: Mapping[int, int]
    """Pixels by label value at the finest scale."""


@dataclass(frozen=True, slots=True)
class _Window:
    """Part of an image at every scale."""

    corner_yx: tuple[int, int]
    """In pixels of the coarsest scale."""
    size: Size
    """In pixels of the coarsest scale."""

    def grid(self, index: int, whole: Size) -> Box:
        """Its grid at a scale, from its own corner, cut at the edge of the image."""
        y, x = (corner << index for corner in self.corner_yx)
        side = Box(x, y, x + (self.size.width << index), y + (self.size.height << index)).intersect(Box.of(whole))
        return Box(0, 0, *side.size.wh)

    def on_image(self, box: Box, index: int) -> Box:
        """A box of its grid on the image's."""
        return box.shift(self.corner_yx[1] << index, self.corner_yx[0] << index)


def survey_rows(
    bundle: Bundle,
    pool: SamplePool,
    samples: Sequence[Sample],
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, images: None,
) -> list[RowSurvey]:
    """Segment annotated images in memory, at most `MOST_ROWS` of each split. Raises ManifestError.

    progress: called with the finished and all images after each.
    """
    engine = Engine(bundle, device, precision="fp32", batch_size=1, features=True)
    chosen = [one for split, most in MOST_ROWS.items() for one in _evenly(_of(samples, split), most)]
    log.info("comparing %s of the data for the bundle's profile", counted(len(chosen), "image"))
    found = []
    for number, sample in enumerate(chosen, start=1):
        found.append(_Survey(bundle.spec, engine, pool.get(sample)).run())
        progress(number, len(chosen))
    return found


def profile_of(
    bundle: Bundle, surveys: Sequence[RowSurvey], label_counts: Mapping[Sample, LabelCounts]
) -> tuple[TrainingProfile, FeatureStatistics | None]:
    """Profile of a bundle from the surveys of its training and validation rows, and the labels of all of these.

    Held-out rows are those of validation and, one after the other, the groups of the training.
    """
    rows = [one for one in surveys if one.sample.split != "test"]
    statistics = _fit([one for one in rows if one.sample.split == "train"])
    held_out = [one for one in rows if one.sample.split == "validation"]
    uncertainty = np.array([one.uncertainty for one in held_out]).reshape(-1, len(bundle.spec.mpps))
    profile = TrainingProfile(
        class_shares=_class_shares(bundle.spec, label_counts),
        uncertainty=tuple(round(float(one), 4) for one in uncertainty.max(axis=0)) if len(uncertainty) else (),
        distances=() if statistics is None else _usual_distances(rows, statistics),
        images=len(rows),
    )
    return profile, statistics


def mean_distances(row: RowSurvey, statistics: FeatureStatistics) -> tuple[float, ...]:
    """Mean distance of an image's blocks from the training data, at each scale; 0 where it has none."""
    return tuple(
        float(np.linalg.norm((blocks - mean) @ whitening.T, axis=1).mean()) if len(blocks) else 0.0
        for blocks, mean, whitening in zip(
            row.features, statistics.mean.numpy(), statistics.whitening.numpy(), strict=True
        )
    )


def add_profile(
    bundle: Path, manifest: Path, output: Path, device: str = "auto", *, overwrite: bool = False
) -> BundleSpec:
    """Write a bundle once more with the profile of a manifest's training and validation rows; returns its description.

    Raises BundleError, ManifestError, ConfigError, TrainingError where rows of a split are missing, StoreError where
    the output exists, unless overwrite is True.
    """
    check_output(output, overwrite=overwrite)
    loaded = load_bundle(bundle)
    if output.suffix != ".safetensors":
        raise ConfigError(f"-o {output} is no name of a bundle; end it with .safetensors")
    rows = read_manifest(manifest)
    for split in ("train", "validation"):
        if not any(sample.split == split for sample in rows.samples):
            raise TrainingError(f"{manifest} has no row of split {split!r}; a profile needs train and validation")
    classes = loaded.spec.classes
    background = loaded.spec.background_index
    painted = None if background is None else classes[background].name
    label_counts = count_manifest_labels(rows, classes, loaded.spec.mpps[-1], ("train", "validation"), painted=painted)
    with closing(SamplePool(classes)) as pool:
        surveys = survey_rows(loaded, pool, rows.of("train", "validation"), resolve_device(device))
    made = profiled(loaded, *profile_of(loaded, surveys, label_counts))
    save_bundle(output, made.spec, made.backbone, made.refiners, made.statistics, made.heads)
    return made.spec


def numbers_of(
    bundle: Bundle,
    report: Mapping[str, Any],
    miou: tuple[Sequence[float], float | None],
    surveys: Sequence[RowSurvey],
    profile: TrainingProfile,
) -> TrainingNumbers:
    """Numbers of a training from which its alarms are decided.

    bundle: with its statistics. report: its rows and labels, as from `rows_of`. miou: of validation, after each scale
    and at the best step of the second stage.
    """
    spec, validation = bundle.spec, [one for one in surveys if one.sample.split == "validation"]
    names = {one.value: one.name for one in spec.classes if one.value}
    order = [one.name for one in spec.classes]
    predicted: Counter[int] = Counter()
    for one in validation:
        predicted.update(one.predicted)
    return TrainingNumbers(
        mpps=spec.mpps,
        miou=miou[0],
        refined_miou=miou[1],
        changed=np.mean([one.changed for one in validation], axis=0).tolist(),
        pixels_by_class={
            split: {name: n for name, n in zip(order, pixels, strict=True) if name in names.values()}
            for split, pixels in report["pixels_by_class"].items()
        },
        predicted={name: predicted[value] for value, name in names.items()},
        validation_images=len(report["rows"]["validation"]),
        validation_groups=len(report["groups"]["validation"]),
        test_factor=_test_factor(bundle.statistics, surveys, profile),
    )


def _test_factor(
    statistics: FeatureStatistics | None, surveys: Sequence[RowSurvey], profile: TrainingProfile
) -> float | None:
    """Distance of the most unusual test row as a multiple of the usual one, at its most unusual scale."""
    if statistics is None:
        return None
    factors = [
        distance / usual
        for row in surveys
        if row.sample.split == "test"
        for distance, usual in zip(mean_distances(row, statistics), profile.distances, strict=True)
        if usual
    ]
    return max(factors, default=None)


def profiled(bundle: Bundle, profile: TrainingProfile, statistics: FeatureStatistics | None) -> Bundle:
    """The bundle with another profile."""
    return replace(bundle, spec=replace(bundle.spec, profile=profile), statistics=statistics)


class _Survey:
    """Survey of one image."""

    def __init__(self, spec: BundleSpec, engine: Engine, opened: OpenSample) -> None:
        self._spec, self._engine, self._opened = spec, engine, opened
        self._scales = [opened.scale(mpp) for mpp in spec.mpps]
        self._window = self._best_window()
        self._tissue = ~np.uint32(0 if spec.background_index is None else 1 << spec.background_index)

    def run(self) -> RowSurvey:
        features: list[Features] = []
        uncertainty, changed = [], []
        predicted: Counter[int] = Counter()
        coarser: Region | None = None
        for index in range(len(self._scales)):
            grid = self._window.grid(index, self._scales[index].size)
            stored = np.zeros((len(self._spec.classes), *grid.size.hw), np.uint8)
            doubt = pixels = changes = 0
            blocks = []
            predicted.clear()
            for box, patch, one in self._cells(index, grid, coarser):
                rows, columns = box.size.hw
                stored[:, *box.slices_yx] = one.probabilities[:, :rows, :columns]
                doubt += int(one.uncertainty[:rows, :columns].sum(dtype=np.int64))
                pixels += rows * columns
                changes += one.changed_px
                values, counts = np.unique(one.labels[:rows, :columns], return_counts=True)
                predicted.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
                blocks.append(self._features(index, box, patch))
            features.append(np.concatenate(blocks))
            uncertainty.append(doubt / (255 * pixels))
            side = self._spec.cell_px
            cells = ceil_div(grid.size.height, side) * ceil_div(grid.size.width, side)
            changed.append(changes / (side**2 * cells))
            coarser = Region(grid, grid, stored)
        return RowSurvey(self._opened.sample, tuple(features), tuple(uncertainty), tuple(changed), dict(predicted))

    def _cells(
        self, index: int, grid: Box, coarser: Region | None
    ) -> Iterator[tuple[Box, npt.NDArray[np.uint8], CellPixels]]:
        """Each cell of a scale with its patch, segmented."""
        geometry = self._geometry(index)
        margin, side = self._engine.margin_px(geometry), geometry.cell_px
        for row in range(ceil_div(grid.size.height, side)):
            for column in range(ceil_div(grid.size.width, side)):
                square = grid_box(row, column, side)
                patch = self._opened.image(
                    self._scales[index], self._window.on_image(square.grow(geometry.halo_px), index)
                )
                maps = None if coarser is None else coarser.cut(coarse_box(square.grow(margin)))
                yield square.intersect(grid), patch, next(self._engine.segment([PatchInput(patch, maps)], geometry))

    def _geometry(self, index: int) -> PatchGeometry:
        spec, ratio = self._spec, 2**index
        halo = scale_halo_px(
            index,
            ratio,
            cell_px=spec.cell_px,
            least_px=spec.halo_px,
            median_px=spec.median_px,
            patch_px=spec.patch_px,
        )
        return PatchGeometry(index, halo, ratio, spec.cell_px)

    def _features(self, index: int, box: Box, patch: npt.NDArray[np.uint8]) -> Features:
        """Features of the cell's blocks that are mostly labelled, and not as background."""
        blocks = self._engine.block_features(patch, self._geometry(index))
        if blocks is None:
            return np.zeros((0, 0), np.float32)
        sets = self._opened.sets(self._scales[index], self._window.on_image(box, index))
        return blocks[tissue_blocks(self._is_tissue(sets), self._spec.cell_px)]

    def _is_tissue(self, sets: Sets) -> npt.NDArray[np.bool_]:
        return np.asarray((sets != self._opened.ignored) & ((sets & self._tissue) != 0))

    def _best_window(self) -> _Window:
        """The window with the most labelled pixels, on a grid of windows."""
        coarsest = self._scales[0]
        side = max(1, WINDOW_PX >> (len(self._scales) - 1))
        windows = list(Box.of(coarsest.size).squares(side))
        if len(windows) == 1:
            return _Window((0, 0), coarsest.size)
        labelled = [int((self._opened.sets(coarsest, one) != self._opened.ignored).sum()) for one in windows]
        best = windows[int(np.argmax(labelled))]
        return _Window((best.y0, best.x0), best.size)


def _of(samples: Sequence[Sample], split: str) -> list[Sample]:
    return [one for one in samples if one.split == split]


def _evenly(samples: Sequence[Sample], most: int) -> list[Sample]:
    step = max(1.0, len(samples) / most)
    return [samples[int(i * step)] for i in range(min(most, len(samples)))]


def _fit(rows: Sequence[RowSurvey]) -> FeatureStatistics | None:
    """Mean and whitening of the features of some rows; None where there are none."""
    if not rows or not any(len(one) for row in rows for one in row.features):
        return None
    width = max(one.shape[1] for row in rows for one in row.features)
    found = []
    for scale in range(len(rows[0].features)):
        known = [row.features[scale] for row in rows if len(row.features[scale])]
        blocks = np.concatenate(known) if known else np.zeros((0, width), np.float32)
        found.append(_whitening(blocks.astype(np.float64), width))
    mean, whitening = (torch.from_numpy(np.stack(one).astype(np.float32)) for one in zip(*found, strict=True))
    return FeatureStatistics(mean, whitening)


def _whitening(blocks: npt.NDArray[np.float64], width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean (F,) and matrix (F, F) whose product with a difference from it has the Mahalanobis distance as length.

    The distance is divided by the root of F, so that it is about 1 for the training data themselves. Zeros for fewer
    blocks than `LEAST_BLOCKS`.
    """
    if len(blocks) < LEAST_BLOCKS:
        return np.zeros(width), np.zeros((width, width))
    mean, deviation = blocks.mean(axis=0), np.maximum(blocks.std(axis=0), 1e-6)
    standard = (blocks - mean) / deviation
    correlation = (1 - SHRINKAGE) * standard.T @ standard / len(blocks) + SHRINKAGE * np.eye(width)
    values, vectors = np.linalg.eigh(correlation)
    return mean, (vectors / np.sqrt(width * values)) @ vectors.T / deviation


def _usual_distances(rows: Sequence[RowSurvey], statistics: FeatureStatistics) -> tuple[float, ...]:
    """Mean distance of the most unusual held-out row at each scale."""
    train = [row for row in rows if row.sample.split == "train"]
    found = [mean_distances(row, statistics) for row in rows if row.sample.split == "validation"]
    groups = {row.sample.group for row in train}
    for group in groups if len(groups) > 1 else ():
        others = _fit([row for row in train if row.sample.group != group])
        if others is not None:
            found += [mean_distances(row, others) for row in train if row.sample.group == group]
    return tuple(round(max((one[scale] for one in found), default=0.0), 4) for scale in range(len(statistics.mean)))


def _class_shares(spec: BundleSpec, label_counts: Mapping[Sample, LabelCounts]) -> dict[str, tuple[float, float]]:
    """Least and most share of each class, background aside, in images whose labels leave no class open."""
    background = 0 if spec.background_index is None else 1 << spec.background_index
    shares = []
    for sample, counts in label_counts.items():
        if sample.split == "test":
            continue
        tissue: Counter[int] = Counter()
        for labels, pixels in counts.counts.items():
            if labels & ~background:
                tissue[labels & ~background] += pixels
        total = sum(tissue.values())
        open_yet = sum(pixels for labels, pixels in tissue.items() if labels.bit_count() > 1)
        if total and open_yet <= MOST_AMBIGUOUS * total:
            shares.append([tissue[1 << i] / total for i in range(len(spec.classes))])
    if len(shares) < LEAST_ROWS:
        return {}
    least, most = np.min(shares, axis=0), np.max(shares, axis=0)
    return {
        str(one.value): (round(float(least[i]), 4), round(float(most[i]), 4))
        for i, one in enumerate(spec.classes)
        if i != spec.background_index
    }
