"""What is labelled on a sample, and where: all its label sets, read once block by block and counted.

Where several annotators draw the same image ("majority", "soft") a pixel counts for all that any of them says. Where
files lie over one another ("first") it counts for what lies on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_magnet.annotations.types import Sets
from wsi_magnet.dataset.manifest import Manifest
from wsi_magnet.dataset.open_sample import OpenSample, naming_row, open_sample
from wsi_magnet.dataset.sample import SPLITS, Sample, Split
from wsi_magnet.errors import ManifestError, WsiMagnetError
from wsi_magnet.geometry import Box, Size, ceil_div
from wsi_magnet.nets.spec import ClassInfo
from wsi_magnet.scales import Scale

BLOCK_PX = 64
"""Side of the squares for which is noted what they hold."""

READ_PX = 1024
"""Side of the blocks that are read; a multiple of BLOCK_PX."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelCounts:
    """What is labelled on a sample at one scale."""

    scale: Scale
    counts: Mapping[int, int]
    """Pixels by set; what is not labelled is left out."""
    presence: npt.NDArray[np.uint32]
    """uint32 (rows, columns), of squares of `block_px` of the scale's grid: all classes that some labelled pixel in it
    may be; 0 where nothing is labelled."""
    block_px: int = BLOCK_PX

    def class_pixels(self, n_classes: int) -> npt.NDArray[np.float64]:
        """Pixels by class, float64 (n_classes,); one that may be of several classes counts in equal parts for each."""
        pixels = np.zeros(n_classes, np.float64)
        for labels, count in self.counts.items():
            members = [i for i in range(n_classes) if labels >> i & 1]
            pixels[members] += count / max(len(members), 1)
        return pixels


def check_labels(opened: OpenSample) -> None:
    """Meet every label of every annotation, at its own resolution and without drawing any.

    Raises ManifestError, naming row, file and label, for the first that is not known.
    """
    with naming_row(opened.sample):
        for annotation in opened.annotations:
            annotation.check()


def count_labels(opened: OpenSample, scale: Scale) -> LabelCounts:
    """Read and count all label sets of a sample at a scale, and check all its labels.

    A label can be so thin that no pixel of the scale has its centre on it; `check_labels` meets it all the same.
    Raises ManifestError.
    """
    check_labels(opened)
    counts: Counter[int] = Counter()
    grid = Size(ceil_div(scale.size.width, BLOCK_PX), ceil_div(scale.size.height, BLOCK_PX))
    presence = np.zeros(grid.hw, np.uint32)
    for box in scale.grid.squares(READ_PX):
        sets = _counted_sets(opened, scale, box)
        labelled = sets != opened.ignored
        if labelled.any():
            values, pixels = np.unique(sets[labelled], return_counts=True)
            counts.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
            part = _any_in_blocks(np.where(labelled, sets, np.uint32(0)))
            row, column = box.y0 // BLOCK_PX, box.x0 // BLOCK_PX
            presence[row : row + part.shape[0], column : column + part.shape[1]] = part
    return LabelCounts(scale, dict(sorted(counts.items())), presence)


def count_manifest_labels(
    manifest: Manifest,
    classes: Sequence[ClassInfo],
    mpp: float,
    splits: Sequence[Split] = SPLITS,
    threads: int = 1,
) -> dict[Sample, LabelCounts]:
    """The survey of each sample of the splits, at `mpp` microns per pixel, in the manifest's order.

    Raises ManifestError, naming the row, for an image or annotation that cannot be opened or do not fit each other and
    for a label that is not known; and, if train is among the splits, for a class that none of its rows labels.
    """
    samples = manifest.of(*splits)
    if not samples:
        raise ManifestError(f"{manifest.path} has no row of {' or '.join(splits)}")

    def counted(sample: Sample) -> LabelCounts:
        with _naming_the_row(manifest, sample), closing(open_sample(sample, classes)) as opened:
            return count_labels(opened, opened.scale(mpp))

    with ThreadPoolExecutor(max(1, threads)) as pool:
        found = dict(zip(samples, pool.map(counted, samples), strict=True))
    if "train" in splits:
        _require_all_classes(manifest, classes, [found[sample] for sample in manifest.of("train")])
    return found


def check_rows(manifest: Manifest, classes: Sequence[ClassInfo], *splits: Split) -> None:
    """Open every sample of some splits and meet each of its labels, without counting any.

    Raises ManifestError, naming the row, for the first that does not fit.
    """
    for sample in manifest.of(*splits):
        with _naming_the_row(manifest, sample), closing(open_sample(sample, classes)) as opened:
            check_labels(opened)


def _counted_sets(opened: OpenSample, scale: Scale, box: Box) -> Sets:
    """uint32 (box height, box width): the set of each pixel as it counts here."""
    if opened.sample.consensus == "first":
        return opened.sets(scale, box)
    together = np.zeros(box.size.hw, np.uint32)
    for sets in opened.each_sets(scale, box):
        together |= np.where(sets != opened.ignored, sets, np.uint32(0))
    together[together == 0] = opened.ignored
    return together


def _any_in_blocks(sets: Sets) -> Sets:
    """Bitwise or over squares of BLOCK_PX from the upper left; the last may be smaller."""
    rows = np.bitwise_or.reduceat(sets, np.arange(0, sets.shape[0], BLOCK_PX), axis=0)
    return np.bitwise_or.reduceat(rows, np.arange(0, sets.shape[1], BLOCK_PX), axis=1)


@contextmanager
def _naming_the_row(manifest: Manifest, sample: Sample) -> Iterator[None]:
    try:
        yield
    except WsiMagnetError as error:
        text = str(error).removeprefix(f"row {sample.row}: ")
        raise ManifestError(f"{manifest.path}, row {sample.row}: {text}") from error


def _require_all_classes(manifest: Manifest, classes: Sequence[ClassInfo], label_counts: Sequence[LabelCounts]) -> None:
    pixels = (
        np.sum([one.class_pixels(len(classes)) for one in label_counts], axis=0)
        if label_counts
        else np.zeros(len(classes))
    )
    for info, count in zip(classes, pixels, strict=True):
        if not count:
            raise ManifestError(
                f"{manifest.path}: class {info.name!r} ({info.value}) has no pixel in the rows of train; "
                "leave it out of the classes or add rows"
            )
