"""Build a data set's manifest from its folder: find images, join annotators, split by whole groups, write, check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from wsi_magnet.dataset.layouts.base import FoundImage, Layout, LayoutOptions
from wsi_magnet.dataset.layouts.registry import LAYOUTS
from wsi_magnet.dataset.leaks import identical_files, leaks
from wsi_magnet.dataset.manifest import Manifest, read_manifest, refuse, write_manifest
from wsi_magnet.dataset.sample import Consensus, Sample, Split
from wsi_magnet.dataset.splits import FRACTIONS, assign_splits
from wsi_magnet.dataset.staple import write_staple
from wsi_magnet.errors import ConfigError, ManifestError
from wsi_magnet.slides.mpp import check_mpp

Joining = Consensus | Literal["staple"]
"""Treatment of several annotations: a consensus taken on reading, or STAPLE masks made beforehand."""

Progress = Callable[[int, int], None]
"""Progress callback, called with (done, total) as STAPLE masks are made."""


@dataclass(frozen=True, slots=True)
class ManifestOptions:
    """User options of a new manifest."""

    mpp: float | None = None
    """Microns per pixel of all images, overriding the data set's known value."""
    labels: str | None = None
    """Coding of all annotations, overriding the data set's own."""
    joining: Joining | None = None
    """None: the layout's default."""
    fractions: tuple[float, ...] = FRACTIONS
    """Shares of train, validation and test, where no split is published."""
    seed: int = 0
    """Seed of the split by shares."""
    test: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    """Names of the groups in these splits, overriding any other choice; all other groups are in train."""
    layout: LayoutOptions = field(default_factory=LayoutOptions)
    """Options of particular layouts."""


def make_manifest(
    dataset: str, root: Path, output: Path, options: ManifestOptions, progress: Progress = lambda done, count: None
) -> tuple[Manifest, tuple[str, ...]]:
    """Write the manifest of a data set; return it as read back, and notes for the user.

    dataset: a name in `LAYOUTS`. root: the unpacked data set. STAPLE masks are written beside `output`, to the folder
    <its stem>_staple. Raises ConfigError for options that do not fit together, ManifestError for missing files and for
    leaks between splits, AnnotationError and StoreError.
    """
    layout = LAYOUTS[dataset]
    _check(dataset, layout, options)
    found = layout.find(root.expanduser().absolute(), options.layout)
    rows = [_with_options(row, options) for row in found.rows]
    joining = options.joining or layout.consensus
    if joining == "staple":
        rows = _stapled(rows, output.absolute(), progress)
    notes = found.notes
    if rows[0].split is None:
        rows, joined = _with_twins_together(rows)
        notes += (f"groups merged because they share an image: {joined}",) if joined else ()
    samples = _samples(rows, "first" if joining == "staple" else joining, options)
    if len({sample.group for sample in samples if sample.split == "test"}) == 1:
        notes += ("test has one group, too few for intervals; choose more with --test or --fractions",)
    refuse(output, leaks(samples))
    write_manifest(output, samples)
    return read_manifest(output), notes


def _check(dataset: str, layout: Layout, options: ManifestOptions) -> None:
    if options.joining and not layout.raters:
        having = ", ".join(name for name, other in LAYOUTS.items() if other.raters)
        raise ConfigError(f"{dataset} has one annotator per image; --consensus is for {having}")
    if options.mpp is not None:
        check_mpp(options.mpp)
    unused = LayoutOptions()
    for name in LayoutOptions.__slots__:
        if getattr(options.layout, name) != getattr(unused, name) and name not in layout.options:
            raise ConfigError(f"--{name.replace('_', '-')} is not for {dataset}")


def _with_options(row: FoundImage, options: ManifestOptions) -> FoundImage:
    return replace(
        row,
        mpp=row.mpp if options.mpp is None else options.mpp,
        labels=row.labels if options.labels is None else options.labels,
    )


def _stapled(rows: Sequence[FoundImage], output: Path, progress: Progress) -> list[FoundImage]:
    """The rows, with several annotations of an image replaced by their STAPLE mask."""
    folder = output.with_name(output.stem + "_staple")
    joined = []
    for done, row in enumerate(rows):
        progress(done, len(rows))
        if len(row.annotations) > 1:
            target = folder / f"{row.image.stem}.png"
            write_staple(row.annotations, row.labels, target)
            row = replace(row, annotations=(target,))
        joined.append(row)
    progress(len(rows), len(rows))
    return joined


def _with_twins_together(rows: Sequence[FoundImage]) -> tuple[list[FoundImage], int]:
    """The rows, with groups that share an identical image merged; and the number of groups merged into others."""
    groups = {row.image: row.group for row in rows}
    now: dict[str, str] = {}

    def final(group: str) -> str:
        while group in now:
            group = now[group]
        return group

    for twins in identical_files(groups):
        first, *others = (groups[path] for path in twins)
        for other in others:
            if final(other) != final(first):
                now[final(other)] = final(first)
    return [replace(row, group=final(row.group)) for row in rows], len(now)


def _samples(rows: Sequence[FoundImage], consensus: Consensus, options: ManifestOptions) -> list[Sample]:
    """The rows as samples; `assign_splits` decides splits that neither the user nor the data set gives."""
    chosen = _chosen_splits(rows, options)
    return [
        Sample(
            row=number,
            image=row.image,
            annotations=row.annotations,
            mpp=row.mpp,
            group=row.group,
            split=chosen[row.group] if options.test or options.validation else row.split or chosen[row.group],
            labels=row.labels,
            consensus=consensus if len(row.annotations) > 1 else "first",
        )
        for number, row in enumerate(rows, 2)
    ]


def _chosen_splits(rows: Sequence[FoundImage], options: ManifestOptions) -> dict[str, Split]:
    """The split of each group."""
    groups = Counter(row.group for row in rows)
    named = [*options.test, *options.validation]
    if not named:
        return assign_splits(groups, options.fractions, options.seed)
    if unknown := [name for name in named if name not in groups]:
        some = ", ".join(sorted(groups)[:12])
        raise ManifestError(f"unknown group {unknown[0]!r}; the {len(groups)} groups are {some}")
    if both := set(options.test) & set(options.validation):
        raise ManifestError(f"group {min(both)!r} is in both test and validation; leave it in one")
    chosen: dict[str, Split] = dict.fromkeys(groups, "train")
    chosen.update(dict.fromkeys(options.validation, "validation"))
    chosen.update(dict.fromkeys(options.test, "test"))
    return chosen
