"""Open samples of a manifest: pixels and label sets at any scale; and an LRU pool of them."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock

import numpy as np

from wsi_magnet.annotations.coding import Coding
from wsi_magnet.annotations.registry import CheckedAnnotation, open_annotation
from wsi_magnet.annotations.types import Sets, full_set
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.dataset.table import codings
from wsi_magnet.errors import ManifestError, WsiMagnetError
from wsi_magnet.geometry import Box
from wsi_magnet.nets.spec import ClassInfo
from wsi_magnet.scales import Scale, scale_at
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import Image, SlideReader

MAX_OPEN = 256
"""Samples that a pool keeps open: their files stay below the 1024 that a process may have."""

MAX_DECODED_BYTES = 4_000_000_000
"""Decoded pixels that a pool keeps, at most, apart from the sample in use. Plain images and their label images are
decoded whole: the 244 cores of Gleason 2019, with up to six maps each, would take more than 50 GB."""


@contextmanager
def naming_row(sample: Sample) -> Iterator[None]:
    """Turn WsiMagnetErrors into ManifestErrors that name the sample's row."""
    try:
        yield
    except ManifestError:
        raise
    except WsiMagnetError as error:
        raise ManifestError(f"row {sample.row}: {error}") from error


def open_sample(sample: Sample, classes: Sequence[ClassInfo]) -> OpenSample:
    """Open an image and its annotations. Label images are only opened, drawn regions are read.

    Raises ManifestError, naming the row, for files that cannot be opened or do not fit together, and without an mpp.
    """
    with ExitStack() as stack, naming_row(sample):
        files = zip(sample.annotations, codings(sample.labels, len(sample.annotations)), strict=True)
        reader = open_slide(sample.image, mpp=sample.mpp)
        stack.callback(reader.close)
        if reader.info.mpp_xy is None:
            raise ManifestError(
                f"row {sample.row}: {sample.image} has no usable mpp; "
                f"give its microns per pixel at level 0 in the mpp column"
            )
        annotations = []
        for path, text in files:
            annotations.append(open_annotation(path, reader.info, Coding.parse(text, classes)))
            stack.callback(annotations[-1].close)
        return OpenSample(sample, reader, tuple(annotations), full_set(len(classes)), stack.pop_all().close)


class OpenSample:
    """An open sample; reading is thread-safe. Closed by `close`, or when no reference is left."""

    def __init__(
        self,
        sample: Sample,
        reader: SlideReader,
        annotations: tuple[CheckedAnnotation, ...],
        ignored: int,
        close: Callable[[], None],
    ) -> None:
        """ignored: the label set of unlabelled pixels. close: releases reader and annotations."""
        self.sample = sample
        self.reader = reader
        self.annotations = annotations
        self.ignored = ignored
        self._finalizer = weakref.finalize(self, close)

    @property
    def decoded_bytes(self) -> int:
        """Upper bound of the decoded pixels that stay in memory while the sample is open.

        A plain image keeps 3 bytes per pixel, each of its label images one; of an OpenSlide slide only its tile cache.
        """
        info = self.reader.info
        return info.cache_bytes + (info.canvas.pixels * len(self.annotations) if info.reader == "image" else 0)

    def scale(self, mpp: float) -> Scale:
        """Scale of that mpp on this image."""
        return scale_at(mpp, self.reader.info.require_mpp(), self.reader.info.canvas)

    def image(self, scale: Scale, box: Box) -> Image:
        """uint8 (box height, box width, 3) RGB, mirrored beyond the canvas; see `read_scale`. Raises ManifestError."""
        with naming_row(self.sample):
            return read_scale(self.reader, scale, box)

    def sets(self, scale: Scale, box: Box, rng: np.random.Generator | None = None) -> Sets:
        """Label sets by the sample's consensus, uint32 (box height, box width).

        rng: draws the annotation of a "soft" read, which is by majority without it. Raises ManifestError.
        """
        with naming_row(self.sample):
            consensus = self.sample.consensus
            if len(self.annotations) == 1:
                return self.annotations[0].read(scale, box)
            if consensus == "first":
                return self._first(scale, box)
            if consensus == "soft" and rng is not None and self.annotations:
                return self.annotations[int(rng.integers(len(self.annotations)))].read(scale, box)
        return majority_of(self.each_sets(scale, box), self.ignored, box)

    def each_sets(self, scale: Scale, box: Box) -> list[Sets]:
        """Label sets of each annotation, in the manifest's order. Raises ManifestError."""
        with naming_row(self.sample):
            return [annotation.read(scale, box) for annotation in self.annotations]

    def close(self) -> None:
        """Release all files; reading is no longer possible."""
        self._finalizer()

    def _first(self, scale: Scale, box: Box) -> Sets:
        sets = np.full(box.size.hw, self.ignored, np.uint32)
        for annotation in self.annotations:
            open_yet = sets == self.ignored
            if not open_yet.any():
                break
            sets[open_yet] = annotation.read(scale, box)[open_yet]
        return sets


def majority_of(each: Sequence[Sets], ignored: int, box: Box) -> Sets:
    """Majority vote: each pixel's most frequent label set among the annotations that label it; unlabelled at a tie.

    each: uint32 (box height, box width). Returns one of the same shape.
    """
    winner, most = np.full(box.size.hw, ignored, np.uint32), np.zeros(box.size.hw, np.int64)
    for sets in each:
        votes = sum(((sets == others).astype(np.int64) for others in each), np.zeros(box.size.hw, np.int64))
        votes[sets == ignored] = 0
        tie = (votes == most) & (sets != winner) & (votes > 0)
        better = votes > most
        winner = np.where(better, sets, np.where(tie, np.uint32(ignored), winner))
        most = np.maximum(votes, most)
    return winner


class SamplePool:
    """LRU cache of open samples, bounded by their number and their decoded bytes; thread-safe, and pickled empty.

    An evicted sample is closed when its last user releases it.
    """

    def __init__(
        self, classes: Sequence[ClassInfo], max_open: int = MAX_OPEN, max_decoded_bytes: int = MAX_DECODED_BYTES
    ) -> None:
        self._classes = tuple(classes)
        self._max_open, self._max_decoded_bytes = max_open, max_decoded_bytes
        self._open: OrderedDict[Sample, OpenSample] = OrderedDict()
        self._lock = Lock()

    def get(self, sample: Sample) -> OpenSample:
        """The open sample; the caller keeps a reference while reading, and does not close it. Raises ManifestError."""
        with self._lock:
            if sample not in self._open:
                self._open[sample] = open_sample(sample, self._classes)
            self._open.move_to_end(sample)
            while self._is_full():
                self._open.popitem(last=False)
            return self._open[sample]

    def _is_full(self) -> bool:
        decoded = sum(one.decoded_bytes for one in self._open.values())
        return len(self._open) > max(1, self._max_open) or (len(self._open) > 1 and decoded > self._max_decoded_bytes)

    def close(self) -> None:
        """Release all samples."""
        with self._lock:
            self._open.clear()

    def __reduce__(self) -> tuple[type[SamplePool], tuple[tuple[ClassInfo, ...], int, int]]:
        return SamplePool, (self._classes, self._max_open, self._max_decoded_bytes)
