"""`--refine auto` against `all` and a fifth of the cells: accuracy and time on annotated images.

    python -m benchmarks.refinement rings.csv=RINGS glas.csv=GlaS -o FOLDER [--bundle FILE ...] [--split test]

Each manifest, as of `wsi-magnet evaluate`, is a data set; `--bundle` names one bundle for all, or one for each in the
same order. Results stay in FOLDER, and a slide whose result is finished there is not segmented again: the same command
resumes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.record import Aim, Measurement, Table, benchmark
from wsi_magnet.config import Execution, Refine
from wsi_magnet.dataset.manifest import read_manifest
from wsi_magnet.dataset.open_sample import open_sample
from wsi_magnet.dataset.sample import SPLITS
from wsi_magnet.errors import ConfigError, ManifestError, ResultMismatchError
from wsi_magnet.evaluate.columns import MIOU
from wsi_magnet.evaluate.comparison import Conditions, ScoredRow, candidates, compare_methods
from wsi_magnet.evaluate.methods import Settings
from wsi_magnet.evaluate.report import Report, make_report
from wsi_magnet.evaluate.scoring import TOLERANCES_UM
from wsi_magnet.evaluate.tables import estimate_text, images_text
from wsi_magnet.nets.spec import bundle_path
from wsi_magnet.results.folder import Existing, ResultFolder
from wsi_magnet.segment.slide import result_folder, segment_slide

BOUNDARY_F = f"boundary_f_{TOLERANCES_UM[0]:g}um"
MOST_POINTS = 0.3
"""Points of mIoU that the default may be below refining everything."""


@dataclass(frozen=True, slots=True)
class Refining:
    """A run with a choice of cells, as a method of an evaluation; a finished result is not made again."""

    name: str
    refine: Refine

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Run all scales. A run that was stopped starts again, so that its time is that of one run."""
        earlier = ResultFolder(result_folder(slide, out)).read_run()
        finished = earlier is not None and not earlier.running
        try:
            return self._run(slide, bundle, out, settings, "resume" if finished else "restart")
        except ResultMismatchError:  # of another bundle, or of another version of the slide
            return self._run(slide, bundle, out, settings, "overwrite")

    def _run(self, slide: Path, bundle: Path, out: Path, settings: Settings, existing: Existing) -> Path:
        config = replace(settings.config, refine=self.refine)
        done = segment_slide(
            slide, out, bundle=bundle, config=config, execution=settings.execution, existing=existing
        ).folder
        assert isinstance(done, Path)
        return done


METHODS = (Refining("auto", "auto"), Refining("0.2", 0.2), Refining("all", "all"))
"""The rows; differences are to the last one."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """An evaluation of one manifest."""

    name: str
    report: Report
    seconds: tuple[float, ...]
    """Time of each row's runs."""

    def lines(self) -> list[list[str]]:
        """Lines of the table."""
        return [self._line(row, seconds) for row, seconds in zip(self._rows, self.seconds, strict=True)]

    @property
    def aim(self) -> Aim:
        """The default's mIoU, held against refining everything."""
        auto, everything = (100 * self.report.estimate(row, MIOU).value for row in (self._rows[0], self._rows[-1]))
        return Aim(f"{self.name}: points of mIoU of auto below all", everything - auto, MOST_POINTS)

    @property
    def bundle(self) -> str:
        """Name of the bundle."""
        return str(self._rows[0].bundle)

    @property
    def _rows(self) -> tuple[ScoredRow, ...]:
        return self.report.comparison.rows

    def _line(self, row: ScoredRow, seconds: float) -> list[str]:
        measures = [self._measure(row, key, part) for key in (MIOU, BOUNDARY_F) for part in ("value", "difference")]
        share = "" if row.refined_share is None else f"{100 * row.refined_share:.1f}"
        return [self.name, row.name, *measures, share, f"{seconds:.1f}", f"{self.seconds[-1] / seconds:.2f}"]

    def _measure(self, row: ScoredRow, key: str, part: str) -> str:
        estimate = self.report.estimate(row, key) if part == "value" else self.report.difference(row, key)
        return "" if estimate is None else estimate_text(estimate, percent=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options: manifests, bundle, folder, split and device."""
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST[=NAME]", help="annotated images, as of `evaluate`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where results are kept")
    parser.add_argument("--bundle", nargs="+", default=[None], help="one for all, or one for each manifest")
    parser.add_argument("--split", choices=SPLITS, default="test", help="rows that are scored (default: test)")
    parser.add_argument("--device", default="auto", help="as of `run`")
    parser.add_argument("--no-tissue", action="store_true", help="analyse all of the images")


def measure(options: argparse.Namespace) -> Measurement:
    """Evaluate every data set."""
    bundles = options.bundle * len(options.manifests) if len(options.bundle) == 1 else options.bundle
    if len(bundles) != len(options.manifests):
        raise ConfigError(f"{len(options.manifests)} manifests and {len(bundles)} bundles: give one for each")
    named = [_named(manifest) for manifest in options.manifests]
    names = [name.casefold() for _, name in named]
    if twice := [name for _, name in named if names.count(name.casefold()) > 1]:
        raise ConfigError(f"two data sets are named {twice[0]!r}, and each has a folder; name them MANIFEST=NAME")
    sets = [_evaluate(*one, bundle, options) for one, bundle in zip(named, bundles, strict=True)]
    columns = ["data set", "refine", "mIoU %", "to all", "boundary F 10 µm %", "to all", "cells refined %", "seconds"]
    images = "; ".join(f"{one.name}: {images_text(one.report)}, bundle {one.bundle}" for one in sets)
    return Measurement(
        Table([*columns, "times as quick"], [line for one in sets for line in one.lines()]),
        [one.aim for one in sets],
        [
            f"{images}.",
            "In brackets, where there are several groups: 95 % intervals. The seconds are those of the runs from the "
            "start of their workers, without that of Python.",
        ],
    )


def _named(text: str) -> tuple[str, str]:
    """Path and name of a data set. Raises ConfigError for a name that is no folder's."""
    path, _, name = text.partition("=")
    name = name or Path(path).stem
    if name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
        raise ConfigError(f"{name!r} is not the name of a folder; name the data set MANIFEST=NAME")
    return path, name


def _evaluate(manifest: str, name: str, bundle: str | None, options: argparse.Namespace) -> DataSet:
    samples = read_manifest(manifest).of(options.split)
    if not samples:
        raise ManifestError(f"{manifest} has no rows of the split {options.split}; choose another with --split")
    folder = options.output.absolute() / name
    conditions = Conditions(not options.no_tissue, Execution(device=options.device), folder, keep_results=True)
    rows = candidates(METHODS, [bundle_path(bundle)])
    comparison = compare_methods(samples, open_sample, rows, conditions, lambda text: print(text, file=sys.stderr))
    stems = [image.sample.image.stem for image in comparison.images]
    places = [
        Path(stem) if stems.count(stem) == 1 else Path(f"row {image.sample.row}") / stem
        for image, stem in zip(comparison.images, stems, strict=True)
    ]
    seconds = tuple(sum(_seconds(folder / method.name / place) for place in places) for method in METHODS)
    return DataSet(name, make_report(comparison), seconds)


def _seconds(result: Path) -> float:
    record = ResultFolder(result).read_run()
    assert record is not None
    assert record.seconds_since_start is not None
    return record.seconds_since_start


if __name__ == "__main__":
    benchmark("refinement", "The default against refining everything", measure, add_options)
