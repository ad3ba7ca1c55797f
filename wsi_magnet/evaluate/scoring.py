"""Scoring of all rows on the same images, grids and classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import BundleError, ManifestError
from wsi_magnet.evaluate.counts import Counts, count
from wsi_magnet.evaluate.ground_truth import Opener, OpenTruth, Target, label_sets, make_target
from wsi_magnet.evaluate.halves import Halves
from wsi_magnet.evaluate.prediction import Prediction
from wsi_magnet.evaluate.worker import Notify
from wsi_magnet.nets.spec import BundleSpec, ClassInfo
from wsi_magnet.slides.types import SlideInfo

TOLERANCES_UM = (10.0, 25.0)
"""Tolerances of boundary measures, in microns."""


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """One scored image."""

    sample: Sample
    reader: str
    """Its reader: "openslide" or "image"."""
    mpp: float
    """Resolution of the scoring grid, on which every row is compared with the annotation: the finest of all rows."""
    megapixels: float
    """Size of that grid."""


class Scorer:
    """Counts results on common images, grids and classes."""

    def __init__(self, samples: Sequence[Sample], open_truth: Opener, specs: Sequence[BundleSpec]) -> None:
        self._classes = _common_classes(specs)
        self._open_truth = open_truth
        self.samples = list(samples)
        self._images: tuple[ScoredImage, ...] = ()
        self._identity_of: dict[Sample, str] = {}

    @property
    def identities(self) -> list[str]:
        """Identities of the slides, in the order of the samples; each slide is opened once."""
        return [self._identity(sample) for sample in self.samples]

    def keep_only(self, by_row: Mapping[str, Mapping[str, Prediction]], notify: Notify) -> None:
        """Leave out images without a result in every row."""
        own = self.identities
        for name, found in by_row.items():
            if strange := [one for identity, one in found.items() if identity not in own]:
                raise ManifestError(
                    f"{name}: {strange[0].folder} is the result of {strange[0].slide.name}, which is not one of the "
                    f"{len(own)} images to score; is it in another split, or another file of that name?"
                )
        common = [all(identity in found for found in by_row.values()) for identity in own]
        if not any(common):
            raise ManifestError(f"no image has a result in every row ({', '.join(by_row)}); nothing can be compared")
        if left := len(own) - sum(common):
            notify(f"{left} of {len(own)} images are left out: not every row has a result for them")
        self.samples = [sample for sample, kept in zip(self.samples, common, strict=True) if kept]

    def prepare(self, finest_mpp: Callable[[SlideInfo, str], float]) -> tuple[tuple[ScoredImage, ...], Target]:
        """Read all annotations on the grid of `finest_mpp(slide, identity)`; return the images and scored classes."""
        sets: set[int] = set()
        images = []
        for sample in self.samples:
            with self._open(sample) as truth:
                info = truth.reader.info
                scale = truth.scale(finest_mpp(info, info.identity))
                sets |= label_sets(truth, scale)
                images.append(ScoredImage(sample, info.reader, scale.mpp, scale.size.pixels / 1e6))
        self._images = tuple(images)
        self._target = make_target(sets, self._classes)
        return self._images, self._target

    def count(
        self, name: str, results: Sequence[Prediction], halves: Sequence[Halves] | None, notify: Notify
    ) -> tuple[tuple[Counts, ...], float | None]:
        """Counts of each image, and the share of refined cells. halves: of each result, or None for none."""
        counted = []
        pairs: Sequence[Halves | None] = halves or [None] * len(results)
        for image, result, own in zip(self._images, results, pairs, strict=True):
            if result.failures:
                notify(
                    f"{name}: {len(result.failures)} cells of {result.slide.name} could not be read and count as errors"
                )
            with self._open(image.sample) as truth:
                counted.append(count(truth, truth.scale(image.mpp), result, self._target, TOLERANCES_UM, own))
        return tuple(counted), _refined_share(results)

    @contextmanager
    def _open(self, sample: Sample) -> Iterator[OpenTruth]:
        with closing(self._open_truth(sample, self._classes)) as truth:
            yield truth

    def _identity(self, sample: Sample) -> str:
        if sample not in self._identity_of:
            with self._open(sample) as truth:
                self._identity_of[sample] = truth.reader.info.identity
        return self._identity_of[sample]


def _common_classes(specs: Sequence[BundleSpec]) -> tuple[ClassInfo, ...]:
    first = specs[0]
    for spec in specs[1:]:
        if [(c.value, c.name) for c in spec.classes] != [(c.value, c.name) for c in first.classes]:
            raise BundleError(
                f"bundles {first.name!r} and {spec.name!r} have different classes ({_listed(first)}; {_listed(spec)}); "
                "evaluate them one by one"
            )
    return first.classes


def _listed(spec: BundleSpec) -> str:
    return ", ".join(f"{c.value} {c.name}" for c in spec.classes)


def _refined_share(results: Sequence[Prediction]) -> float | None:
    later = [one for result in results for one in result.scales[1:]]
    cells = sum(one["cells"] for one in later)
    return sum(one["cells_refined"] for one in later) / cells if cells else None
