"""Every sample of some splits opened and counted through before anything is trained: what is wrong names its row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np

from wsi_magnet.dataset.label_counts import Survey, check_labels, survey
from wsi_magnet.dataset.manifest import Manifest
from wsi_magnet.dataset.open_sample import open_sample
from wsi_magnet.dataset.sample import SPLITS, Sample, Split
from wsi_magnet.errors import ManifestError, WsiMagnetError
from wsi_magnet.nets.spec import ClassInfo


def survey_manifest(
    manifest: Manifest,
    classes: Sequence[ClassInfo],
    mpp: float,
    splits: Sequence[Split] = SPLITS,
    threads: int = 1,
) -> dict[Sample, Survey]:
    """The survey of each sample of the splits, at `mpp` microns per pixel, in the manifest's order.

    Raises ManifestError, naming the row, for an image or annotation that cannot be opened or do not fit each other and
    for a label that is not known; and, if train is among the splits, for a class that none of its rows labels.
    """
    samples = manifest.of(*splits)
    if not samples:
        raise ManifestError(f"{manifest.path} has no row of {' or '.join(splits)}")

    def surveyed(sample: Sample) -> Survey:
        with _naming_the_row(manifest, sample), closing(open_sample(sample, classes)) as opened:
            return survey(opened, opened.scale(mpp))

    with ThreadPoolExecutor(max(1, threads)) as pool:
        found = dict(zip(samples, pool.map(surveyed, samples), strict=True))
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


@contextmanager
def _naming_the_row(manifest: Manifest, sample: Sample) -> Iterator[None]:
    try:
        yield
    except WsiMagnetError as error:
        text = str(error).removeprefix(f"row {sample.row}: ")
        raise ManifestError(f"{manifest.path}, row {sample.row}: {text}") from error


def _require_all_classes(manifest: Manifest, classes: Sequence[ClassInfo], surveys: Sequence[Survey]) -> None:
    pixels = np.sum([one.class_pixels(len(classes)) for one in surveys], axis=0) if surveys else np.zeros(len(classes))
    for info, count in zip(classes, pixels, strict=True):
        if not count:
            raise ManifestError(
                f"{manifest.path}: class {info.name!r} ({info.value}) has no pixel in the rows of train; "
                "leave it out of the classes or add rows"
            )
