"""Options that several commands share.

\b
  SLIDE         info, plan, run
  --bundle      info, plan, run, batch, doctor
  --mpp         info, plan, run, batch, doctor
  --json        info, plan, run, bundle show, manifest, train, evaluate, doctor,
                batch, status
  work options  plan, run, batch: --method --refine --roi --roi-classes --exclude --tissue-mask
                --no-tissue --tile --ngff --keep --batch-size --precision
  execution     plan, run, batch, doctor: --device --workers --scheduler --cluster
  --dashboard   plan, run, batch
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wsi_magnet.config import MAGNET, TILE_PX, Execution, Ngff, Precision, RunConfig, parse_refine
from wsi_magnet.errors import ConfigError
from wsi_magnet.methods.registry import settled

if TYPE_CHECKING:
    from wsi_magnet.nets.classes import ClassChanges

Command = TypeVar("Command", bound=Callable[..., Any])

KEEPABLE = ("probabilities", "uncertainty")


_OPTION_OF = {
    "tile_px": "--tile",
    "tissue": "--no-tissue",
    "keep_probabilities": "--keep",
    "keep_uncertainty": "--keep",
    "path": "SLIDE",
    "out": "--output",
}
"""Option of an argument of the library whose name is another one."""


def in_option_words(error: Exception) -> str:
    """Text of an error, with the command line's options in place of the library's arguments."""
    text = str(error)
    for name in error.arguments if isinstance(error, ConfigError) else ():
        option = _OPTION_OF.get(name, f"--{name.replace('_', '-')}")
        text = re.sub(rf"(?<![\w-]){re.escape(name)}\b", option, text, count=1)
    return text.removesuffix(" or None")  # an option that is not given


class OneSlide(click.Command):
    """A command for one slide; given several, it names the command for them."""

    allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises click.UsageError for a second slide."""
        rest = super().parse_args(ctx, args)
        if rest:
            ctx.fail(f"one slide at a time, so not {' '.join(rest)} too; `wsi-magnet batch` segments several")
        return rest


slide_argument = click.argument("slide", type=click.Path())

bundle_option = click.option(
    "--bundle",
    metavar="FILE",
    help="The model: weights with everything needed to use them (.safetensors). [default: the one shipped]",
)

mpp_option = click.option(
    "--mpp",
    type=float,
    metavar="MICRONS",
    help="Microns per pixel at level 0, where the slide states none or a wrong value.",
)

dashboard_option = click.option(
    "--dashboard", is_flag=True, help="Start Dask's dashboard with workers of this machine, and show its address."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def work_options(command: Command) -> Command:
    """Add the options of a plan or a run, besides slide and bundle."""
    for option in reversed(
        [
            mpp_option,
            click.option(
                "--method",
                default=MAGNET,
                show_default=True,
                metavar="NAME",
                help="Method of the poster: MagNet, MagNet-Fast, Patching, Downsample, GF, DenseCRF or one that the "
                "bundle was trained for (`wsi-magnet bundle show`); those refine the coarsest result at the finest "
                "scale.",
            ),
            click.option(
                "--refine",
                default="auto",
                show_default=True,
                metavar="auto|all|FRACTION",
                help="Tissue cells (squares of 512 px, or of 256 or 128 if the bundle has smaller ones) that finer "
                "scales refine: those that are uncertain enough to change (auto), all of them, or a share of the cells "
                "of all finer scales together (0 to 1), where refining resolves most uncertainty.",
            ),
            click.option(
                "--roi",
                type=click.Path(),
                metavar="FILE",
                help="Analyse only the regions of FILE: QuPath GeoJSON, ASAP or ImageScope XML, HistomicsUI JSON, "
                "or a label image (PNG, TIFF, OME-Zarr).",
            ),
            click.option(
                "--roi-classes", default="", metavar="NAME,...", help="Classes or names of the regions. [default: all]"
            ),
            click.option(
                "--exclude", type=click.Path(), metavar="FILE", help="Leave out the areas of FILE, of the same kinds."
            ),
            click.option(
                "--tissue-mask",
                type=click.Path(),
                metavar="FILE",
                help="Take the areas of FILE, of the same kinds, for the tissue, instead of finding it.",
            ),
            click.option(
                "--no-tissue", is_flag=True, help="Analyse all of the slide instead of what looks like H&E tissue."
            ),
            click.option(
                "--keep",
                default="",
                metavar="LIST",
                help=f"Images to keep besides the mask: {' or '.join(KEEPABLE)}, or both, separated by a comma.",
            ),
            click.option(
                "--ngff",
                type=click.Choice(["0.4", "0.5"]),
                default="0.4",
                show_default=True,
                help="OME-Zarr version; 0.4 opens in QuPath, 0.5 writes fewer files (sharding).",
            ),
            click.option(
                "--tile",
                type=click.Choice([str(t) for t in TILE_PX]),
                default="1024",
                show_default=True,
                help="Side of a tile, the unit of scheduling and storage, in pixels; the mask does not depend on it.",
            ),
            click.option(
                "--batch-size",
                type=int,
                metavar="N",
                help="Patches in a forward pass. [default: 1 on CPU, 4 to 16 on CUDA, by its memory]",
            ),
            click.option(
                "--precision",
                type=click.Choice(["auto", "fp32", "mixed", "bf16", "fp16"]),
                default="auto",
                show_default=True,
                help="Arithmetic of the networks; mixed: the backbone in fp32, refinement in bf16; "
                "auto: fp16 on CUDA, mixed on CPUs that have bf16, else fp32.",
            ),
        ]
    ):
        command = option(command)
    return command


def make_config(
    *,
    mpp: float | None,
    method: str,
    refine: str,
    roi: str | None,
    roi_classes: str,
    exclude: str | None,
    tissue_mask: str | None,
    no_tissue: bool,
    keep: str,
    ngff: Ngff,
    tile: str,
    batch_size: int | None,
    precision: Precision,
) -> RunConfig:
    """The configuration from the work options. Raises click.UsageError (exit 2) for invalid values."""
    kept = {name.strip() for name in keep.split(",") if name.strip()}
    if kept - set(KEEPABLE):
        raise click.UsageError(f"--keep {keep!r}: choose from {', '.join(KEEPABLE)}")
    try:
        config = RunConfig(
            mpp=mpp,
            method=method,
            refine=parse_refine(refine),
            roi=roi,
            roi_classes=tuple(name.strip() for name in roi_classes.split(",") if name.strip()),
            exclude=exclude,
            tissue_mask=tissue_mask,
            tissue=not no_tissue,
            tile_px=int(tile),
            ngff=ngff,
            keep_probabilities="probabilities" in kept,
            keep_uncertainty="uncertainty" in kept,
            batch_size=batch_size,
            precision=precision,
        )
        return settled(config)
    except ConfigError as error:
        raise click.UsageError(in_option_words(error)) from error


def execution_options(command: Command) -> Command:
    """Add the options of execution; the default is threads of this process."""
    return _execution_options(command, "threads of this process")


def batch_execution_options(command: Command) -> Command:
    """Add the options of execution for a batch; the default is processes on this machine."""
    return _execution_options(command, "one for each 8 threads")


def _execution_options(command: Command, without: str) -> Command:
    for option in reversed(
        [
            click.option(
                "--device",
                default="auto",
                show_default=True,
                metavar="auto|cpu|cuda[:N]",
                help="Where the networks run.",
            ),
            click.option(
                "--workers",
                type=int,
                metavar="N",
                help=f"Worker processes on this machine. [default: {without}]",
            ),
            click.option(
                "--scheduler", metavar="tcp://HOST:PORT", help="A running Dask scheduler whose workers do the work."
            ),
            click.option(
                "--cluster",
                metavar="FILE.yaml",
                help="A cluster to start for this run: jobs of Slurm, PBS, LSF, SGE, HTCondor, OAR or Moab.",
            ),
        ]
    ):
        command = option(command)
    return command


def class_options(command: Command) -> Command:
    """Add --rename and --color."""
    for option in (
        click.option(
            "--color", "colors", multiple=True, metavar="NAME=#RRGGBB", help="Another colour for a class. Repeatable."
        ),
        click.option(
            "--rename", "renames", multiple=True, metavar="OLD=NEW", help="Another name for a class. Repeatable."
        ),
    ):
        command = option(command)
    return command


def make_class_changes(renames: Sequence[str], colors: Sequence[str]) -> ClassChanges:
    """The changes from --rename and --color. Raises click.UsageError (exit 2) for what is neither."""
    from wsi_magnet.nets.classes import ClassChanges, parse_color

    try:
        return ClassChanges(
            pairs("--rename", renames),
            {name: parse_color(text) for name, text in pairs("--color", colors).items()},
        )
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """Values by name of an option's "NAME=VALUE" texts. Raises ConfigError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value) or name in found:
            raise ConfigError(f"{option} {text!r}: give NAME=VALUE, once for each name")
        found[name] = value
    return found


def make_execution(
    *, device: str, workers: int | None, scheduler: str | None, cluster: str | None, dashboard: bool = False
) -> Execution:
    """The execution from its options. Raises click.UsageError (exit 2) for invalid values."""
    try:
        return Execution(device=device, workers=workers, scheduler=scheduler, cluster=cluster, dashboard=dashboard)
    except ConfigError as error:
        raise click.UsageError(in_option_words(error)) from error
