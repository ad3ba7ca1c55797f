"""`wsi-magnet bundle`: show a bundle, rename its classes, or make one from published MagNet checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_magnet.cli import options
from wsi_magnet.cli.models import import_model as import_exported
from wsi_magnet.cli.models import import_weights, trust
from wsi_magnet.errors import ConfigError
from wsi_magnet.text import counted

if TYPE_CHECKING:
    from wsi_magnet.nets.spec import Argument, BundleSpec


VALIDATION = (
    "(Validation figures are those of the few images on which steps and thresholds were chosen. `wsi-magnet evaluate` "
    "measures the accuracy on other images; docs/evaluation.md has that of the bundle that ships.)"
)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the file of -o if it exists.")


@click.group("bundle", short_help="Show and edit bundles, import checkpoints.")
def command() -> None:
    """Bundles: the models. A file holds the weights of the networks and everything that is needed to use them."""


command.add_command(import_exported)
command.add_command(import_weights)
command.add_command(trust)


@command.command("show", short_help="Show what is in a bundle.")
@click.argument("bundle", required=False, type=click.Path())
@options.json_option
def show(bundle: str | None, as_json: bool) -> None:
    """Show the network, classes, scales, thresholds, other methods and card of BUNDLE, by default of the one that
    ships.
    """
    from wsi_magnet.cli.tables import facts, methods_text, table
    from wsi_magnet.nets.spec import bundle_path, head_parameters, read_spec

    spec, sha256 = read_spec(bundle)
    learned = head_parameters(bundle)
    if as_json:
        heads = {"head_parameters": learned} if learned else {}
        click.echo(json.dumps({"sha256": sha256, **spec.to_json(), **heads}, indent=2))
        return
    scales = len(spec.mpps)
    shown = facts(
        [
            ("name", spec.name),
            ("file", bundle_path(bundle)),
            ("sha256", sha256),
            ("network", f"{spec.network} {_arguments(spec.network_args)}".rstrip()),
            *([("package", spec.network_package)] if spec.network_package else []),
            ("refinement", f"{spec.refiner}, {_modules(spec)}"),
            ("scales", f"{', '.join(f'{m:g}' for m in spec.mpps)} µm/px, coarse to fine"),
            ("cells", f"{spec.cell_px} x {spec.cell_px} px, {_halo_text(spec)}"),
            ("profile", _profile_text(spec)),
        ]
    )
    steps = table(
        ["scale", "pixels are refined above a score of", "--refine auto refines cells above an uncertainty of"],
        [
            [
                f"{spec.mpps[i + 1]:g} µm/px",
                f"{spec.select_above[i]:g}" + (f", softly over {w:g}" if (w := spec.width_of(i)) else ""),
                f"{spec.refine_above[i]:g}",
            ]
            for i in range(scales - 1)
        ],
    )
    classes = table(
        ["class", "value", "colour"], [[c.name, c.value, "#{:02x}{:02x}{:02x}".format(*c.color)] for c in spec.classes]
    )
    methods = methods_text(
        {name: [f"{learned[name]:,}"] for name in spec.methods}, ["learned parameters"], spec.methods
    )
    card = "\n".join(f"{name}: {text}" for name, text in spec.card.items())
    if any(name.startswith("validation") for name in spec.card):
        card += f"\n{VALIDATION}"
    click.echo("\n\n".join(part for part in (shown, classes, steps if scales > 1 else "", methods, card) if part))


def _arguments(values: Mapping[str, Argument]) -> str:
    return f"({', '.join(f'{name} {value}' for name, value in values.items())})" if values else ""


def _halo_text(spec: BundleSpec) -> str:
    if spec.patch_px is None:
        return f"with a halo of at least {spec.halo_px}"
    halo_px = (spec.patch_px - spec.cell_px) // 2
    return f"with a halo of {halo_px}: the network takes {spec.patch_px} x {spec.patch_px} alone"


def _modules(spec: BundleSpec) -> str:
    steps = len(spec.refiner_of)
    if spec.n_refiners == 1 and steps > 1:
        return f"one module for all {steps} steps from scale to scale"
    return f"{counted(spec.n_refiners, 'module')}, one for each step from scale to scale"


@command.command("edit", short_help="Rename or recolour the classes of a bundle.")
@click.argument("bundle", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="NEW.safetensors")
@options.class_options
@click.option("--name", metavar="NAME", help="Another name of the bundle.")
@click.option("--card", "card", multiple=True, metavar="KEY=TEXT", help="An entry of the model card. Repeatable.")
@overwrite_option
def edit(
    bundle: str,
    output: Path,
    renames: tuple[str, ...],
    colors: tuple[str, ...],
    name: str | None,
    card: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Copy BUNDLE ("default": the one that ships) with other names and colours of its classes. The weights are the
    same: finished results stay finished, and `wsi-magnet relabel RESULT --bundle NEW` gives them the new names.

    \b
      wsi-magnet bundle edit default -o mine.safetensors --rename "stroma=Stroma" --color "gland=#1f77b4"
    """
    changes = options.make_class_changes(renames, colors)
    try:
        entries = options.pairs("--card", card)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if not (renames or colors or name or card):
        raise click.UsageError("nothing to change: give --rename, --color, --name or --card")

    from wsi_magnet.nets.classes import has_control_characters
    from wsi_magnet.nets.spec import ClassInfo, check_output, edit_bundle, read_spec

    if name and has_control_characters(name):
        raise ConfigError(f"--name {name!r} has control characters; choose another")
    spec, _ = read_spec(bundle)
    labels = changes.of([one.label for one in spec.classes])
    classes = tuple(ClassInfo(one.name, one.value, one.color) for one in labels)
    check_output(output, overwrite=overwrite)
    edit_bundle(bundle, output, replace(spec, name=name or spec.name, classes=classes, card={**spec.card, **entries}))
    click.echo(f"{output}: {name or spec.name}, classes {', '.join(one.name for one in classes)}")


def _configured(path: Path) -> dict[str, Any]:
    """Arguments of `import_magnet` that a training's configuration has."""
    from wsi_magnet.train.config import read_config

    config = read_config(path)
    return {
        "network": config.backbone.network,
        "mpps": config.mpps,
        "classes": config.class_infos(),
        "median_px": config.median_px,
        "cell_px": config.cell_px,
    }


def _profile_text(spec: BundleSpec) -> str:
    if spec.profile is None:
        return "none: no alarm for slides unlike its training data; `wsi-magnet bundle profile` adds one"
    known = {"distance": spec.profile.distances, "uncertainty": spec.profile.uncertainty}
    names = [name for name, values in {**known, "shares of classes": spec.profile.class_shares}.items() if values]
    return f"of {counted(spec.profile.images, 'image')}; slides are compared by {', '.join(names) or 'nothing'}"


@command.command("profile", short_help="Add a profile of the training data, for alarms.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="NEW.safetensors")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Device to compute on.")
@overwrite_option
def profile(bundle: Path, manifest: Path, output: Path, device: str, overwrite: bool) -> None:
    """Segment the images that MANIFEST lists, the ones that BUNDLE was trained and validated on, and write NEW: the
    same bundle with the numbers from which a run sees that a slide is unlike them. `wsi-magnet train` does this itself.

    \b
      wsi-magnet bundle profile old.safetensors my-images.csv -o new.safetensors
    """
    from wsi_magnet.cli.progress import watching_training
    from wsi_magnet.train.profile import add_profile

    with watching_training():
        spec = add_profile(bundle, manifest, output, device, overwrite=overwrite)
    click.echo(f"{output}: profile {_profile_text(spec)}")


@command.command("import-magnet", short_help="Make a bundle from published MagNet checkpoints.")
@click.option("--network", type=click.Choice(["fpn", "psp", "hrnet18+ocr"]), help="The backbone's architecture.")
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
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="C.yaml",
    help="A training's configuration whose network, scales, classes and median the bundle gets; "
    "pipelines/configs/ has those of Cityscapes and DeepGlobe.",
)
@overwrite_option
def import_magnet(
    network: str | None,
    backbone: str,
    refiners: tuple[str, ...],
    more_refiners: tuple[str, ...],
    output: str,
    scales: str | None,
    classes: str | None,
    config_path: Path | None,
    overwrite: bool,
) -> None:
    """Make a bundle from the published program's checkpoints, which are read without running any code in them.

    \b
      wsi-magnet bundle import-magnet --network psp --backbone psp.pth --refiner refinement.pth -o gleason.safetensors
      wsi-magnet bundle import-magnet --config deepglobe.yaml --backbone b.pth --refiner r.pth -o deepglobe.safetensors
    """
    if (config_path is None) == (network is None) or (config_path and (scales or classes)):
        raise click.UsageError("give --network, with or without --scales and --classes, or --config alone")
    try:
        mpps = [float(s) for s in scales.split(",")] if scales else None
    except ValueError:
        raise click.UsageError(f"--scales {scales!r}: give numbers separated by commas, coarse to fine") from None
    names = [name.strip() for name in classes.split(",")] if classes else None

    from wsi_magnet.nets.import_magnet import import_magnet as make

    given: dict[str, Any] = {"network": network, "mpps": mpps, "class_names": names}
    spec = make(
        backbone_path=backbone,
        refiner_paths=[*refiners, *more_refiners],
        output=output,
        overwrite=overwrite,
        **(_configured(config_path) if config_path else given),
    )
    click.echo(
        f"{output}: {spec.network}, {len(spec.classes)} classes, scales {', '.join(f'{m:g}' for m in spec.mpps)} µm/px"
    )
