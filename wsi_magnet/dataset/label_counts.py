"""Counts and positions of a sample's labels, from one pass over all its label sets, block by block.

Where several people annotated the same image ("majority", "soft"), a pixel counts for every class that any of them
gives it. Where files are layers ("first"), it counts for the topmost label.
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
"""Side of the blocks whose classes are recorded."""

READ_PX = 1024
"""Side of the regions that are read at once; a multiple of BLOCK_PX."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelCounts:
    """Labels of a sample at one scale: their number, and where they are."""

    scale: Scale
    counts: Mapping[int, int]
    """Pixels by label set, without unlabelled ones."""
    presence: npt.NDArray[np.uint32]
    """uint32 (rows, columns), one per block of `block_px` pixels of the scale: union of its label sets; 0 for none."""
    block_px: int = BLOCK_PX

    def class_pixels(self, n_classes: int) -> npt.NDArray[np.float64]:
        """Pixels by class, float64 (n_classes,); a pixel of several possible classes counts in equal parts."""
        pixels = np.zeros(n_classes, np.float64)
        for labels, count in self.counts.items():
            members = [i for i in range(n_classes) if labels >> i & 1]
            pixels[members] += count / max(len(members), 1)
        return pixels


def check_labels(opened: OpenSample) -> None:
    """Check every label of every annotation at the annotation's own resolution.

    Raises ManifestError, naming row, file and label, for the first unknown one.
    """
    with naming_row(opened.sample):
        for annotation in opened.annotations:
            annotation.check()


def count_labels(opened: OpenSample, scale: Scale) -> LabelCounts:
    """Count the label sets of a sample at a scale, and check all its labels.

    A label may be so thin that no pixel of the scale has its centre on it; `check_labels` still finds it. Raises
    ManifestError.
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
    painted: str | None = None,
) -> dict[Sample, LabelCounts]:
    """Label counts of each sample of the splits, at `mpp` microns per pixel, in the manifest's order.

    painted: name of a class that training paints into its crops, and that rows need not have. Raises ManifestError,
    naming the row, for files that cannot be opened or do not fit each other, and for unknown labels; and, if train is
    among the splits, for a class without a labelled pixel in it.
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
        _require_all_classes(manifest, classes, [found[sample] for sample in manifest.of("train")], painted)
    return found


def check_rows(manifest: Manifest, classes: Sequence[ClassInfo], *splits: Split) -> None:
    """Open every sample of some splits and check its labels, without counting them.

    Raises ManifestError, naming the first row that does not fit.
    """
    for sample in manifest.of(*splits):
        with _naming_the_row(manifest, sample), closing(open_sample(sample, classes)) as opened:
            check_labels(opened)


def _counted_sets(opened: OpenSample, scale: Scale, box: Box) -> Sets:
    """Label set of each pixel for counting, uint32 (box height, box width)."""
    if opened.sample.consensus == "first":
        return opened.sets(scale, box)
    together = np.zeros(box.size.hw, np.uint32)
    for sets in opened.each_sets(scale, box):
        together |= np.where(sets != opened.ignored, sets, np.uint32(0))
    together[together == 0] = opened.ignored
    return together


def _any_in_blocks(sets: Sets) -> Sets:
    """Bitwise or over blocks of BLOCK_PX from the upper left; the last may be smaller."""
    rows = np.bitwise_or.reduceat(sets, np.arange(0, sets.shape[0], BLOCK_PX), axis=0)
    return np.bitwise_or.reduceat(rows, np.arange(0, sets.shape[1], BLOCK_PX), axis=1)


@contextmanager
def _naming_the_row(manifest: Manifest, sample: Sample) -> Iterator[None]:
    try:
        yield
    except WsiMagnetError as error:
        text = str(error).removeprefix(f"row {sample.row}: ")
        raise ManifestError(f"{manifest.path}, row {sample.row}: {text}") from error


def _require_all_classes(
    manifest: Manifest, classes: Sequence[ClassInfo], label_counts: Sequence[LabelCounts], painted: str | None
) -> None:
    pixels = (
        np.sum([one.class_pixels(len(classes)) for one in label_counts], axis=0)
        if label_counts
        else np.zeros(len(classes))
    )
    for info, count in zip(classes, pixels, strict=True):
        if not count and info.name != painted:
            raise ManifestError(
                f"{manifest.path}: class {info.name!r} ({info.value}) has no pixel in the rows of train; "
                "remove it from the classes or add rows"
            )
