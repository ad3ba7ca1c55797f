"""`wsi-magnet manifest`: list the images, annotations, groups and splits of a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from wsi_magnet.cli import options
from wsi_magnet.dataset.layouts.base import LayoutOptions
from wsi_magnet.dataset.layouts.registry import LAYOUTS
from wsi_magnet.dataset.sample import SPLITS, Consensus

if TYPE_CHECKING:
    from wsi_magnet.dataset.manifest import Manifest


class _Described(click.Command):
    """A command whose help ends with a description of each data set, and which hands `merge` on to its own command."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == [merge.name]:
            return merge.make_context(f"{info_name} {merge.name}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Data sets"):
            formatter.write_dl([(name, " ".join(layout.about.split())) for name, layout in LAYOUTS.items()])


@click.command("manifest", cls=_Described, short_help="List a data set's images, annotations and splits.")
@click.argument("dataset", type=click.Choice(list(LAYOUTS)), metavar="DATASET")
@click.argument("root", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), metavar="M.csv", help="The manifest to write.")
@click.option("--overwrite", is_flag=True, help="Replace a manifest that is there already.")
@click.option(
    "--mpp", type=float, metavar="MICRONS", help="Microns per pixel of all images, instead of the known values."
)
@click.option("--labels", metavar="CODING", help='Meaning of labels, e.g. "0=ignore; 1=stroma; 2=3|4|5".')
@click.option(
    "--fractions",
    metavar="TRAIN,VALIDATION,TEST",
    help="Shares of the images, whole groups each, where no split is published. [default: 0.7,0.15,0.15]",
)
@click.option("--test", metavar="GROUP,...", default="", help="Groups to test on; those not named are trained on.")
@click.option("--validation", metavar="GROUP,...", default="", help="Groups to validate on, in the same way.")
@click.option("--split-seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the split by shares.")
@click.option(
    "--consensus",
    type=click.Choice([*get_args(Consensus), "staple"]),
    help="Consensus of several annotators of one image: the first that labels a pixel, their majority, one drawn "
    "at random for each training crop (soft), or a mask by STAPLE, written beside the manifest.",
)
@click.option("--remove", type=click.Path(), metavar="FILE", help="gleason2019: maps to leave out (JSON).")
@click.option("--images", metavar="FOLDER", help="folders: folder of the images, below ROOT.")
@click.option("--masks", metavar="FOLDER", help="folders: folder of the annotations, below ROOT.")
@click.option(
    "--groups", type=click.Path(), metavar="CSV", help="folders: list with the columns image and group (the patient)."
)
@click.option(
    "--group-pattern", metavar="REGEX", help="folders: pattern whose one group, in an image's name, is the patient."
)
@options.json_option
def command(dataset: str, root: str, output: str, overwrite: bool, as_json: bool, **given: Any) -> None:
    """Write the manifest of the DATASET that was unpacked into the folder ROOT: a CSV file to train and evaluate with.

    \b
      wsi-magnet manifest gleason2019 Gleason2019 -o gleason.csv --consensus staple
      wsi-magnet manifest folders my_slides -o mine.csv --group-pattern "^(P[0-9]+)_"
      wsi-magnet manifest merge gleason.csv mine.csv -o both.csv --test mine

    `merge` joins manifests (`manifest merge --help`). Splits never divide a group: a patient, a microarray, tiles that
    overlap. Unless stated otherwise, label values are 0 background, 1 stroma, 2 benign epithelium, 3, 4, 5 Gleason
    patterns; "a or b" is a label that may be either.
    """
    _refuse_existing(output, overwrite)
    shares = _fractions(given.pop("fractions"))

    from wsi_magnet.dataset.build_manifest import ManifestOptions, make_manifest

    remove, groups = (Path(path) if (path := given.pop(name)) else None for name in ("remove", "groups"))
    made = ManifestOptions(
        mpp=given.pop("mpp"),
        labels=given.pop("labels"),
        joining=given.pop("consensus"),
        seed=given.pop("split_seed"),
        test=_names(given.pop("test")),
        validation=_names(given.pop("validation")),
        layout=LayoutOptions(remove=remove, groups=groups, **given),
        **({"fractions": shares} if shares else {}),
    )
    _report(*make_manifest(dataset, Path(root), Path(output), made, _show), as_json)


@click.command("merge")
@click.argument("manifests", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="A.csv B.csv ...")
@click.option("-o", "--output", required=True, type=click.Path(), metavar="M.csv", help="The manifest to write.")
@click.option("--overwrite", is_flag=True, help="Replace a manifest that is there already.")
@click.option(
    "--test",
    metavar="SITE,...",
    default="",
    help="Sites to test on, with all their rows; the test rows of the others become train rows.",
)
@options.json_option
def merge(manifests: tuple[Path, ...], output: str, overwrite: bool, test: str, as_json: bool) -> None:
    """Join manifests into one, to train one bundle on several data sets, whose labels may differ in detail.

    \b
      wsi-magnet manifest merge panda.csv sicapv2.csv aggc.csv -o prostate.csv --test aggc

    A manifest's name without suffix is the site of its rows, and training draws crops from all sites alike. Splits stay
    as they are, unless --test holds sites out.
    """
    _refuse_existing(output, overwrite)

    from wsi_magnet.dataset.merge_manifests import merge_manifests

    _report(*merge_manifests(manifests, Path(output), test=_names(test)), as_json)


def _refuse_existing(output: str, overwrite: bool) -> None:
    if Path(output).exists() and not overwrite:
        raise click.UsageError(f"{output} is there already; --overwrite replaces it")


def _report(manifest: Manifest, notes: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"manifest": str(manifest.path), **_counts(manifest), "notes": list(notes)}, indent=2))
    else:
        click.echo(_text(manifest, notes))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def _fractions(text: str | None) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError:
        raise click.UsageError(f"--fractions {text!r}: give three numbers, as 0.7,0.15,0.15") from None


def _show(done: int, count: int) -> None:
    """Print the progress of STAPLE on one line."""
    click.echo(f"\rSTAPLE: {done} of {count} images", nl=done == count, err=True)


def _counts(manifest: Manifest) -> dict[str, Any]:
    splits = {
        split: {"rows": len(samples), "groups": len({sample.group for sample in samples})}
        for split, samples in ((split, manifest.of(split)) for split in SPLITS)
    }
    return {
        "rows": len(manifest.samples),
        "groups": len({sample.group for sample in manifest.samples}),
        "annotations": sum(len(sample.annotations) for sample in manifest.samples),
        "splits": splits,
    }


def _text(manifest: Manifest, notes: tuple[str, ...]) -> str:
    from wsi_magnet.cli.tables import table

    counts = _counts(manifest)
    rows = [[split, one["rows"], one["groups"]] for split, one in counts["splits"].items()]
    text = table(["split", "rows", "groups"], [*rows, ["all", counts["rows"], counts["groups"]]])
    return "\n".join([str(manifest.path), "", text, *(f"Note: {note}" for note in notes)])
