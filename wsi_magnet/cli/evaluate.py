"""`wsi-magnet evaluate`: methods, bundles or finished results compared on annotated slides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from wsi_magnet.cli import options
from wsi_magnet.config import Execution
from wsi_magnet.errors import ConfigError

if TYPE_CHECKING:
    from wsi_magnet.dataset.sample import Sample
    from wsi_magnet.evaluate.comparison import Comparison
    from wsi_magnet.evaluate.report import Report

FRACTIONS = "0,0.1,0.25,0.5,0.75,1"


@dataclass(frozen=True, slots=True)
class Choices:
    """Options of a comparison, checked against each other."""

    bundles: tuple[str, ...]
    results: tuple[Path, ...]
    methods: tuple[str, ...]
    fast: float
    fractions: tuple[float, ...] | None
    """Shares of the refine curve; None: the table."""
    tissue: bool
    execution: Execution
    output: Path | None
    keep_results: bool
    mean_without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.results and (self.bundles or self.methods or self.fractions is not None):
            raise ConfigError("--result scores existing results; --bundle, --methods and --refine-curve make new ones")
        if self.methods and self.fractions is not None:
            raise ConfigError("--refine-curve concerns MagNet alone; leave --methods out")
        if self.keep_results and self.output is None:
            raise ConfigError("--keep-results needs a folder to keep them in; pass -o FOLDER")
        if not all(0 <= f <= 1 for f in (self.fast, *(self.fractions or ()))):
            raise ConfigError("--fast and --fractions are shares between 0 and 1")


@click.command("evaluate", short_help="Score methods on annotated slides.")
@click.argument("manifest", type=click.Path())
@click.option(
    "--bundle", "bundles", multiple=True, metavar="FILE", help="Bundle to score. Repeatable. [default: the one shipped]"
)
@click.option(
    "--result",
    "results",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Score finished results instead: a result folder, or a folder of them, which is a row. Repeatable.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    help="Rows of the manifest that are scored.",
)
@click.option(
    "--methods",
    default="",
    metavar="NAME,NAME,...",
    help="Rows of the table: methods of `run --method`, or all. [default: Patching, Downsample, MagNet-Fast, MagNet "
    "and those that the bundle was trained for]",
)
@click.option("--fast", default=0.25, show_default=True, help="Share of the cells that MagNet-Fast refines.")
@click.option(
    "--tissue/--no-tissue",
    default=True,
    show_default=True,
    help="Analyse only what looks like H&E tissue, as `run` does.",
)
@click.option("--refine-curve", is_flag=True, help="mIoU against the share of cells refined, instead of the table.")
@click.option("--fractions", default=FRACTIONS, show_default=True, help="Shares for the curve.")
@click.option(
    "--mean-without",
    default="",
    metavar="CLASS,...",
    help="Classes to leave out of mIoU, FW-IoU and Dice. Their pixels still count, as errors of the classes that they "
    "are taken for.",
)
@click.option("--resamples", type=click.IntRange(1), default=1000, show_default=True, help="Bootstrap resamples.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write evaluation.json, evaluation.csv and evaluation.png there (for a curve: curve.*), and for more "
    "than four rows methods.png.",
)
@click.option("--keep-results", is_flag=True, help="Keep every method's results, in FOLDER/results.")
@options.json_option
def command(
    manifest: str,
    bundles: tuple[str, ...],
    results: tuple[Path, ...],
    split: str,
    methods: str,
    fast: float,
    tissue: bool,
    refine_curve: bool,
    fractions: str,
    mean_without: str,
    resamples: int,
    seed: int,
    device: str,
    output: Path | None,
    keep_results: bool,
    as_json: bool,
) -> None:
    """Score methods on the annotated slides of MANIFEST: one table with quality, memory, time and intervals.

    \b
      wsi-magnet evaluate manifest.csv --bundle trained.safetensors -o evaluation
      wsi-magnet evaluate manifest.csv --bundle a.safetensors --bundle b.safetensors --methods magnet
      wsi-magnet evaluate manifest.csv --refine-curve -o evaluation
      wsi-magnet evaluate manifest.csv --result results

    Patching is the bundle's network at the finest scale alone, Downsample at the coarsest, MagNet-Fast refines a part
    of the cells. Each method runs in its own process. Classes that no label distinguishes are scored as one.
    Results for --result are made by `wsi-magnet run --keep probabilities`; without these, calibration is unknown.
    """
    try:
        choices = Choices(
            bundles,
            results,
            tuple(name for name in methods.split(",") if name.strip()),
            fast,
            _fractions(fractions) if refine_curve else None,
            tissue,
            Execution(device=device),
            output,
            keep_results,
            tuple(name for name in (part.strip() for part in mean_without.split(",")) if name),
        )
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    from wsi_magnet.cli.main import EXIT_INTERRUPTED, STARTS_OVER
    from wsi_magnet.cli.stopping import importing

    with importing(STARTS_OVER, EXIT_INTERRUPTED):
        from wsi_magnet.dataset.manifest import read_manifest
        from wsi_magnet.errors import ManifestError
        from wsi_magnet.evaluate.report import make_report
        from wsi_magnet.storage.errors import storage_errors
        from wsi_magnet.storage.output import refuse_below_file

        for name in _HEAVY:
            import_module(name)

    samples = [sample for sample in read_manifest(manifest).samples if sample.split == split]
    if not samples:
        raise ManifestError(f"{manifest} has no rows of the split {split}; choose another with --split")
    if output is not None:
        # A folder that cannot be made is reported now, not after hours.
        refuse_below_file(output / f"{_file_name(curve=refine_curve)}.json")
        with storage_errors(output):
            output.mkdir(parents=True, exist_ok=True)
    compared = _compare(samples, choices)
    report = make_report(compared, resamples=resamples, seed=seed, mean_without=choices.mean_without)
    click.echo(_json(report) if as_json else _text(report, curve=refine_curve))
    if output is not None:
        _write(report, output, curve=refine_curve)


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(f) for f in text.split(",")}))
    except ValueError:
        raise ConfigError(f"--fractions {text!r}: give numbers separated by commas") from None


_HEAVY = tuple(f"wsi_magnet.evaluate.{name}" for name in ("comparison", "figure", "methods", "prediction"))
"""Modules that bring PyTorch and Matplotlib."""


def _compare(samples: list[Sample], choices: Choices) -> Comparison:
    from wsi_magnet.dataset.open_sample import open_sample
    from wsi_magnet.evaluate.comparison import Conditions, candidates, compare_methods, compare_results
    from wsi_magnet.evaluate.figure import AUTO
    from wsi_magnet.evaluate.methods import MethodRow, all_rows, choose
    from wsi_magnet.evaluate.prediction import find_results
    from wsi_magnet.methods.build import require_methods
    from wsi_magnet.nets.spec import bundle_path, read_spec

    if choices.results:
        return compare_results(samples, open_sample, find_results(choices.results), _notify)
    bundles = [bundle_path(bundle) for bundle in dict.fromkeys(choices.bundles or ("default",))]
    _check_classes(bundles, choices.mean_without)
    fitted = [set(read_spec(bundle)[0].methods) for bundle in bundles]
    methods = choose(all_rows(choices.fast), choices.methods, sorted(set.intersection(*fitted)))
    for bundle in bundles:
        require_methods(read_spec(bundle)[0], [row.method for row in methods])
    if choices.fractions is not None:
        for bundle in bundles:
            if len(read_spec(bundle)[0].mpps) < 2:
                raise ConfigError(f"{bundle} has one scale: there is nothing to refine, and no curve")
        methods = (MethodRow(AUTO, refine="auto"), *(MethodRow(f"{f:g}", refine=f) for f in choices.fractions))
    with _folder(choices) as folder:
        conditions = Conditions(choices.tissue, choices.execution, folder, choices.keep_results)
        return compare_methods(samples, open_sample, candidates(methods, bundles), conditions, _notify)


def _check_classes(bundles: list[Path], names: tuple[str, ...]) -> None:
    """Raise ConfigError for a name of no class, or of no joined classes, before hours of computation."""
    from wsi_magnet.nets.spec import read_spec

    known = {one.name.lower() for bundle in bundles for one in read_spec(bundle)[0].classes}
    for name in names:
        if not set(name.lower().split("/")) <= known:
            raise ConfigError(f"--mean-without {name!r}: the classes are {', '.join(sorted(known))}")


@contextmanager
def _folder(choices: Choices) -> Iterator[Path]:
    """Folder for the results: beside the report if they are kept, else temporary."""
    if choices.output is not None and choices.keep_results:
        yield choices.output / "results"
        return
    with TemporaryDirectory(prefix="wsi-magnet-") as folder:
        yield Path(folder)


def _notify(text: str) -> None:
    click.echo(text, err=True)


def _text(report: Report, *, curve: bool) -> str:
    from wsi_magnet.cli.tables import table
    from wsi_magnet.evaluate.tables import curve_table, notes, tables

    shown = [curve_table(report)] if curve else tables(report)
    remarks = "\n".join(f"{note}." for note in notes(report, curve=curve))
    return "\n\n".join([*(table(one.head, one.rows) for one in shown), remarks])


def _json(report: Report) -> str:
    from wsi_magnet.evaluate.serialise import to_json

    return json.dumps(to_json(report), indent=2)


def _file_name(*, curve: bool) -> str:
    return "curve" if curve else "evaluation"


def _write(report: Report, folder: Path, *, curve: bool) -> None:
    from wsi_magnet.evaluate.figure import draw_comparison, draw_curve, draw_scatter
    from wsi_magnet.evaluate.serialise import to_csv
    from wsi_magnet.evaluate.tables import FEW_ROWS
    from wsi_magnet.storage.errors import storage_errors

    name = _file_name(curve=curve)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(_json(report) + "\n")
        (folder / f"{name}.csv").write_text(to_csv(report))
        picture = draw_curve(report) if curve else draw_comparison(report)
        (folder / f"{name}.png").write_bytes(picture)
        rows = report.comparison.rows
        if not curve and len(rows) > FEW_ROWS and any(row.seconds for row in rows):
            (folder / "methods.png").write_bytes(draw_scatter(report))
