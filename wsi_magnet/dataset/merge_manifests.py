"""Merging of manifests into one, so that several data sets train one bundle, and some of them judge it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from wsi_magnet.dataset.leaks import leaks
from wsi_magnet.dataset.manifest import Manifest, read_manifest, refuse, write_manifest
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import ManifestError


def merge_manifests(
    paths: Sequence[Path], output: Path, *, test: Sequence[str] = ()
) -> tuple[Manifest, tuple[str, ...]]:
    """Write a manifest of the rows of others; return it as read back, and notes for the user.

    The site of a row is its site, or else its manifest's name without suffix, and its group becomes "site/group", since
    two sites may number their patients alike. test: sites whose rows are all test rows; the test rows of the others are
    then train rows, because the held-out sites judge. Raises ManifestError, naming the row, for what `read_manifest`
    refuses, for manifests of one name, for an unknown site, for images in two splits, and without a row to train on.
    """
    _check_names(paths, output)
    samples = [one for path in paths for one in _of_site(path)]
    sites = sorted({sample.site for sample in samples})
    if unknown := [name for name in test if name not in sites]:
        raise ManifestError(f"unknown site {unknown[0]!r}; the sites are {', '.join(sites)}")
    if set(sites) <= set(test):
        raise ManifestError("all sites are held out; leave one to train on")
    trained = sum(sample.split == "test" and sample.site not in test for sample in samples) if test else 0
    samples = [replace(_held_out(sample, test), row=row) for row, sample in enumerate(samples, 2)]
    refuse(output, leaks(samples))
    write_manifest(output, samples)
    notes = (f"{trained} test rows of the other sites are train rows now",) if trained else ()
    return read_manifest(output), notes


def _check_names(paths: Sequence[Path], output: Path) -> None:
    for number, path in enumerate(paths):
        if twin := next((other for other in paths[:number] if other.stem == path.stem), None):
            raise ManifestError(f"{path} and {twin} would both be site {path.stem!r}; rename one")
        if path.absolute() == output.absolute():
            raise ManifestError(f"{output} is one of the manifests to merge; give another name")


def _of_site(path: Path) -> Iterator[Sample]:
    for sample in read_manifest(path).samples:
        yield sample if sample.site else replace(sample, site=path.stem, group=f"{path.stem}/{sample.group}")


def _held_out(sample: Sample, test: Sequence[str]) -> Sample:
    """The sample in the split that it has where the sites `test` judge."""
    if sample.site in test:
        return replace(sample, split="test")
    return replace(sample, split="train") if test and sample.split == "test" else sample
