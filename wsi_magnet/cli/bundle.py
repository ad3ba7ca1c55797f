"""`wsi-magnet bundle`: show a bundle, or make one from published MagNet checkpoints."""

from __future__ import annotations

import json

import click

from wsi_magnet.cli import options


@click.group("bundle", short_help="Show bundles and import checkpoints.")
def command() -> None:
    """Bundles: weights with everything needed to use them."""


@command.command("show", short_help="Show what is in a bundle.")
@click.argument("bundle", required=False, type=click.Path())
@options.json_option
def show(bundle: str | None, as_json: bool) -> None:
    """Show the network, classes, scales, thresholds and card of BUNDLE, by default of the one that ships."""
    from wsi_magnet.cli.tables import facts, table
    from wsi_magnet.nets.spec import read_spec

    spec, sha256 = read_spec(bundle)
    if as_json:
        click.echo(json.dumps({"sha256": sha256, **spec.to_json()}, indent=2))
        return
    shown = facts(
        [
            ("name", spec.name),
            ("sha256", sha256),
            ("network", f"{spec.network} {dict(spec.network_args) or ''}".rstrip()),
            (
                "refiner",
                f"{spec.refiner}, {len(set(spec.refiner_of))} for {len(spec.refiner_of)} steps, {spec.channel_order}",
            ),
            ("scales", ", ".join(f"{m:g}" for m in spec.mpps) + " µm/px"),
            ("select above", ", ".join(f"{t:g}" for t in spec.select_above)),
            ("select width", ", ".join(f"{w:g}" for w in spec.select_width) or "0: hard, as published"),
            ("refine above", ", ".join(f"{t:g}" for t in spec.refine_above)),
        ]
    )
    classes = table(
        ["class", "value", "colour"], [[c.name, c.value, "#{:02x}{:02x}{:02x}".format(*c.color)] for c in spec.classes]
    )
    card = "\n".join(f"{name}: {text}" for name, text in spec.card.items())
    click.echo("\n\n".join(part for part in (shown, classes, card) if part))


@command.command("import-magnet", short_help="Make a bundle from published MagNet checkpoints.")
@click.option(
    "--network", required=True, type=click.Choice(["fpn", "psp", "hrnet18+ocr"]), help="The backbone's architecture."
)
@click.option("--backbone", required=True, type=click.Path(), metavar="B.pth", help="The backbone's checkpoint.")
@click.option(
    "--refiner",
    "refiners",
    required=True,
    multiple=True,
    type=click.Path(),
    metavar="R.pth",
    help="One for all steps, or one for each step, coarse to fine: --refiner r1.pth r2.pth.",
)
@click.argument("more_refiners", nargs=-1, type=click.Path(), metavar="[R2.pth ...]")
@click.option("-o", "--output", required=True, type=click.Path(), metavar="X.safetensors")
@click.option("--scales", metavar="MPP,MPP,...", help="Microns per pixel, coarse to fine, each half of the one before.")
@click.option(
    "--classes",
    metavar="NAME,NAME,...",
    help='Class names in the network\'s order, e.g. "background,benign epithelium,Gleason 3".',
)
def import_magnet(
    network: str,
    backbone: str,
    refiners: tuple[str, ...],
    more_refiners: tuple[str, ...],
    output: str,
    scales: str | None,
    classes: str | None,
) -> None:
    """Make a bundle from the published program's checkpoints, which are read without running any code in them.

    \b
      wsi-magnet bundle import-magnet --network psp --backbone psp.pth --refiner refinement.pth -o gleason.safetensors
    """
    try:
        mpps = [float(s) for s in scales.split(",")] if scales else None
    except ValueError:
        raise click.UsageError(f"--scales {scales!r}: give numbers separated by commas, coarse to fine") from None
    names = [name.strip() for name in classes.split(",")] if classes else None

    from wsi_magnet.nets.import_magnet import import_magnet as make

    spec = make(network, backbone, [*refiners, *more_refiners], output, mpps=mpps, class_names=names)
    click.echo(
        f"{output}: {spec.network}, {len(spec.classes)} classes, scales {', '.join(f'{m:g}' for m in spec.mpps)} µm/px"
    )
