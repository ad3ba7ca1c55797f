"""`wsi-magnet train`: train a bundle on annotated images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from wsi_magnet.cli import options


@click.command("train", short_help="Train a bundle on annotated images.")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--config",
    "config_path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="C.yaml",
    help="Settings of the training; see docs/training.md.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="B.safetensors",
    help="The bundle to write.",
)
@click.option(
    "--backbone",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Take the backbone of this bundle, and train the refinement modules and the heads of other methods alone.",
)
@click.option(
    "--heads-only",
    is_flag=True,
    help="Take everything of the bundle of --backbone, and add the configuration's `methods` to it.",
)
@click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Start from all weights of this bundle, such as to fine-tune it on corrected masks.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]",
    help="Device of the training; auto and cuda use all GPUs.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: all]")
@click.option(
    "--loaders",
    type=click.IntRange(0, 256),
    default=0,
    show_default=True,
    metavar="N",
    help="Processes that read and augment images, for each device. 0: threads of the training. The result is the same.",
)
@click.option(
    "--cache-gb",
    type=click.FloatRange(0, 1e5),
    default=4,
    show_default=True,
    metavar="GB",
    help="Memory for decoded images, for each device; the least recently used are decoded anew.",
)
@click.option("--check", is_flag=True, help="Check and summarise configuration and data; train nothing.")
@click.option(
    "--restart",
    is_flag=True,
    help="Start over instead of resuming from the checkpoints. If only settings of refiners or of `methods` were "
    "changed, the backbone is kept. Replaces the bundle, whatever made it.",
)
@options.json_option
def command(
    manifest: Path,
    config_path: Path,
    output: Path,
    backbone: Path | None,
    heads_only: bool,
    start: Path | None,
    device: str,
    threads: int | None,
    loaders: int,
    cache_gb: float,
    check: bool,
    restart: bool,
    as_json: bool,
) -> None:
    """Train both stages of MagNet on the images that MANIFEST lists: a backbone, then its refinement modules. A
    configuration may list other methods, whose heads are trained on the same backbone.

    \b
      wsi-magnet manifest folders my-images -o my-images.csv
      wsi-magnet train my-images.csv --config my.yaml -o my.safetensors
      wsi-magnet evaluate my-images.csv --bundle my.safetensors

    Every row is checked before anything is trained. Checkpoints, curves.csv and curves.png go into a folder beside the
    bundle, B.training; after a stop at any time the same command resumes.
    """
    if math.isnan(cache_gb):
        raise click.BadParameter("nan is no amount", param_hint="'--cache-gb'")
    from wsi_magnet.cli.main import EXIT_INTERRUPTED, STOPPED
    from wsi_magnet.cli.stopping import importing

    with importing(STOPPED["train"], EXIT_INTERRUPTED):
        from wsi_magnet.cli.progress import watching_training
        from wsi_magnet.cli.tables import check_text, training_text
        from wsi_magnet.system import cpu_threads
        from wsi_magnet.train.config import read_config
        from wsi_magnet.train.pipeline import train_bundle
        from wsi_magnet.train.spec import TrainingSpec, check_spec

    spec = TrainingSpec(
        manifest,
        read_config(config_path),
        output,
        device,
        threads or cpu_threads(),
        backbone,
        heads_only,
        start,
        loaders,
        int(cache_gb * 1e9),
    )
    if check:
        found = check_spec(spec, restart=restart)
        click.echo(json.dumps(found, indent=2) if as_json else check_text(found))
        return
    with watching_training() as watch:
        report = train_bundle(spec, restart=restart, watch=watch)
    click.echo(json.dumps(report, indent=2) if as_json else training_text(report, output, spec.folder))
