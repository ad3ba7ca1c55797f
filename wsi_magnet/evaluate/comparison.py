"""Evaluation from start to end: make each row's results, or take existing ones, and count."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.evaluate.counts import Counts
from wsi_magnet.evaluate.ground_truth import Opener, Target
from wsi_magnet.evaluate.halves import find_halves, is_half
from wsi_magnet.evaluate.kept import costs, write_row
from wsi_magnet.evaluate.methods import Row, Settings
from wsi_magnet.evaluate.prediction import Prediction
from wsi_magnet.evaluate.scoring import ScoredImage, Scorer
from wsi_magnet.evaluate.worker import Item, Notify, PeakMemory, Segmented, segment_isolated
from wsi_magnet.nets.spec import BundleSpec, read_spec
from wsi_magnet.planning.prepare import ladder_of, upsampling_note
from wsi_magnet.slides.types import SlideInfo
from wsi_magnet.storage.errors import storage_errors


@dataclass(frozen=True, eq=False, slots=True)
class ScoredRow:
    """One method's counts."""

    name: str
    bundle: str
    """Name of the bundle."""
    counts: tuple[Counts, ...]
    """One per image."""
    seconds: tuple[float, ...] | None
    """Wall time of each image; None for existing results, unless `evaluate` has kept them."""
    peak: PeakMemory | None
    refined_share: float | None
    """Share of refined cells among the cells of all scales after the first, over all images; None with one scale."""

    @property
    def has_halves(self) -> bool:
        """True where it was compared with its halves."""
        return any(one.agreement.any() for one in self.counts)


@dataclass(frozen=True, eq=False, slots=True)
class Comparison:
    """Counts of all rows, from which every number follows."""

    images: tuple[ScoredImage, ...]
    target: Target
    rows: tuple[ScoredRow, ...]
    reference: str
    """Name of the reference row for differences."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method with a bundle, to become a row."""

    name: str
    method: Row
    bundle: Path


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions that all methods share."""

    tissue: bool
    """True to analyse only tissue, as `run` does."""
    execution: Execution
    folder: Path
    """Parent of the rows' result folders."""
    keep_results: bool
    """If False, each row's results are deleted after counting."""


def candidates(methods: Sequence[Row], bundles: Sequence[Path]) -> list[Candidate]:
    """One candidate per method and bundle; with several bundles the name includes the bundle."""
    if len(bundles) == 1:
        return [Candidate(method.name, method, bundles[0]) for method in methods]
    names = [read_spec(bundle)[0].name for bundle in bundles]
    if len(set(names)) < len(names):
        names = [bundle.stem for bundle in bundles]
    if len(set(names)) < len(names):
        names = [str(bundle) for bundle in bundles]
    return [
        Candidate(f"{method.name} [{name}]", method, bundle)
        for name, bundle in zip(names, bundles, strict=True)
        for method in methods
    ]


def compare_methods(
    samples: Sequence[Sample], open_truth: Opener, rows: Sequence[Candidate], conditions: Conditions, notify: Notify
) -> Comparison:
    """Run every method on every image, one method after the other, and count. Raises WsiMagnetError."""
    specs = {row.bundle: read_spec(row.bundle)[0] for row in rows}
    scorer = Scorer(samples, open_truth, list(specs.values()))
    images, target = scorer.prepare(lambda info, _: min(_finest_mpp(info, s, notify) for s in specs.values()))
    scored: dict[str, ScoredRow] = {}
    halves: list[list[Prediction]] = []
    with ExitStack() as kept:
        # Halves come first and stay, because the other rows are compared with them.
        for row in sorted(rows, key=lambda row: not is_half(row.method.name)):
            with ExitStack() as own:
                place = _folder(conditions.folder / _file_name(row.name), keep=conditions.keep_results)
                folder = (kept if is_half(row.method.name) else own).enter_context(place)
                done, peak = segment_row(row, [image.sample for image in images], folder, conditions, notify)
                if conditions.keep_results:
                    write_row(folder, done, peak)
                results = [Prediction(one.folder) for one in done]
                if is_half(row.method.name):
                    halves.append(results)
                counts, share = scorer.count(row.name, results, find_halves(results, halves), notify)
                seconds = tuple(one.seconds for one in done)
                scored[row.name] = ScoredRow(row.name, specs[row.bundle].name, counts, seconds, peak, share)
    reference = next((r.name for r in rows if r.method.name == "MagNet"), rows[-1].name)
    return Comparison(images, target, tuple(scored[row.name] for row in rows), reference)


def _finest_mpp(info: SlideInfo, spec: BundleSpec, notify: Notify) -> float:
    ladder = ladder_of(info, spec)
    if ladder.upsampled:
        notify(f"{info.path}: {upsampling_note(info, ladder)}")
    return ladder.finest.mpp


def compare_results(
    samples: Sequence[Sample], open_truth: Opener, rows: Mapping[str, Sequence[Prediction]], notify: Notify
) -> Comparison:
    """Count finished results, a list per row; images without a result in every row are left out, with a notice.

    Raises WsiMagnetError, and ManifestError for a result of a slide that is not in `samples`.
    """
    specs = [one.spec for results in rows.values() for one in results]
    scorer = Scorer(samples, open_truth, specs)
    by_row = {name: {one.identity: one for one in results} for name, results in rows.items()}
    scorer.keep_only(by_row, notify)
    images, target = scorer.prepare(lambda _, identity: min(found[identity].scale.mpp for found in by_row.values()))
    kept = {name: [found[identity] for identity in scorer.identities] for name, found in by_row.items()}
    scored = []
    for name, results in kept.items():
        counts, share = scorer.count(name, results, find_halves(results, kept.values()), notify)
        bundles = ", ".join(dict.fromkeys(one.spec.name for one in results))
        scored.append(ScoredRow(name, bundles, counts, *costs(results), share))
    reference = next((name for name in rows if name.lower() == "magnet"), scored[-1].name)
    return Comparison(images, target, tuple(scored), reference)


def segment_row(
    row: Candidate,
    samples: Sequence[Sample],
    folder: Path,
    conditions: Conditions,
    notify: Notify,
    among: Sequence[Sample] = (),
) -> tuple[list[Segmented], PeakMemory]:
    """Run a method on samples in a process of its own, with the results in a row's folder. Raises WsiMagnetError.

    among: all samples whose results the folder is to hold, where they are more.
    """
    outs = result_parents(among or samples, folder)
    items = []
    for sample in samples:
        config = RunConfig(mpp=sample.mpp, tissue=conditions.tissue, keep_probabilities=True)
        items.append(Item(sample.image, outs[sample], Settings(config, conditions.execution)))
    return segment_isolated(row.method, row.bundle, items, notify)


def result_parents(samples: Sequence[Sample], folder: Path) -> dict[Sample, Path]:
    """Parent of each sample's result folder: the row's, or one of its own in it where two slides share a name."""
    names = Counter(sample.image.stem for sample in samples)
    return {one: folder if names[one.image.stem] == 1 else folder / f"row {one.row}" for one in samples}


@contextmanager
def _folder(path: Path, *, keep: bool) -> Iterator[Path]:
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_. []" else "_" for c in name)
