"""`wsi-magnet bundle import-model`, `import-weights` and `trust`: models and state dicts from elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_magnet.cli import options
from wsi_magnet.errors import ConfigError

if TYPE_CHECKING:
    from wsi_magnet.nets.import_model import ModelDescription


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Numbers separated by commas."""
    del context
    if text is None:
        return None
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: give numbers separated by commas", param=option) from None


def _three(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Three numbers, or one for all three channels."""
    found = _numbers(context, option, text)
    if found is None or len(found) == 3:
        return found
    if len(found) == 1:
        return found * 3
    raise click.BadParameter(f"{text!r}: give three numbers, for red, green and blue, or one", param=option)


def _input_px(context: click.Context, option: click.Parameter, text: str | None) -> dict[str, int] | None:
    """A side, "any", or "any:MULTIPLE"."""
    del context
    if text is None:
        return None
    word, _, multiple = text.partition(":")
    number = multiple or "1" if word == "any" else word
    if not number.isdecimal() or (multiple and word != "any") or int(number) < 1:
        raise click.BadParameter(f"{text!r}: give a number of pixels, any, or any:MULTIPLE", param=option)
    return {"input_multiple": int(number)} if word == "any" else {"input_px": int(number)}


def _described(stated: dict[str, Any]) -> ModelDescription:
    """The description that options give, by their names. Raises UsageError for one that is needed and not there."""
    from wsi_magnet.nets.import_model import ModelDescription, scaled_to

    size = "--input-px" if stated.keys().isdisjoint({"input_px", "input_multiple"}) else None
    missing = [f"--{name}" for name in ("classes", "mpps") if name not in stated] + ([size] if size else [])
    if missing:
        raise click.UsageError(f"{' and '.join(missing)} must be given, too")
    if "scale_to" in stated:
        scaled = scaled_to(*stated.pop("scale_to"))
        stated |= {"mean": scaled.mean, "std": scaled.std}
    if "channel_order" in stated:
        stated["colours"], _, layout = stated.pop("channel_order").lower().partition(":")
        stated["layout"] = layout or "nchw"
    return ModelDescription(**stated)


def _beside(file: Path) -> ModelDescription:
    """The description of a patch classifier in WSInfer's file beside it. Raises UsageError where there is none."""
    from wsi_magnet.nets.wsinfer import CONFIG_NAME, has_config, read_config

    if not has_config(file.parent):
        raise click.UsageError(
            f"give --classes, --mpps and --input-px; no {CONFIG_NAME} of WSInfer beside {file} states them"
        )
    return read_config(file.parent)


@click.command("import-model", short_help="Make a bundle from an exported model.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="X.safetensors")
@click.option("--classes", metavar="NAME,NAME,...", help="Class names in the model's order.")
@click.option(
    "--mpps",
    callback=_numbers,
    metavar="MPP[,MPP,...]",
    help="Microns per pixel that the model was trained for: one, or several scales, coarse to fine, each half of the "
    "one before.",
)
@click.option(
    "--input-px",
    "size",
    callback=_input_px,
    metavar="PX|any[:MULTIPLE]",
    help="Side of the only patch that the model takes; any for any side, any:32 for any multiple of 32.",
)
@click.option("--mean", callback=_three, metavar="R,G,B", help="Subtracted from RGB / 255. [default: ImageNet's]")
@click.option("--std", callback=_three, metavar="R,G,B", help="Divides the difference. [default: ImageNet's]")
@click.option(
    "--scale-to",
    callback=_numbers,
    metavar="LOW,HIGH",
    help="Values of black and white instead of a mean and a deviation, such as 0,1 or -1,1 or 0,255.",
)
@click.option(
    "--activation",
    type=click.Choice(["logits", "softmax", "sigmoid"]),
    show_default="logits",
    help="What the model returns: logits, probabilities that add up to 1, or a probability of each class by itself.",
)
@click.option(
    "--channel-order",
    type=click.Choice(["RGB", "BGR", "RGB:NHWC", "BGR:NHWC"]),
    show_default="RGB",
    help="Order of the colours; NHWC where they are the last axis.",
)
@click.option("--output-stride", type=click.IntRange(1, 64), show_default="1", help="Input pixels per output pixel.")
@click.option("--cell-px", type=click.Choice(["128", "256", "512"]), help="Side of the cells. [default: what fits]")
@click.option("--trust", "trusted", is_flag=True, help="Let the code of a .pt2 or TorchScript file run, now and later.")
@click.option("--overwrite", is_flag=True, help="Replace the file of -o if it exists.")
def import_model(
    file: Path,
    output: Path,
    classes: str | None,
    mpps: tuple[float, ...] | None,
    size: dict[str, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    scale_to: tuple[float, ...] | None,
    activation: str | None,
    channel_order: str | None,
    output_stride: int | None,
    cell_px: str | None,
    trusted: bool,
    overwrite: bool,
) -> None:
    """Make a bundle from FILE, a segmentation model that was exported by torch.export (.pt2), as TorchScript or as
    ONNX. It is tried on a patch first. Opening a .pt2 or TorchScript file runs code from it, which needs --trust; ONNX
    runs none. Without any option that describes it, FILE is a patch classifier of WSInfer's, described by the
    config.json beside it.

    \b
      wsi-magnet bundle import-model unet.onnx --classes background,tumour --mpps 0.5 --input-px 512 -o unet.safetensors
      wsi-magnet bundle import-model unet.pt2 --trust --classes a,b,c --mpps 2,1,0.5 --input-px any:32 -o u.safetensors
      wsi-magnet bundle import-model zoo/torchscript_model.pt --trust -o tumour.safetensors
    """
    given = {
        "classes": classes and tuple(name.strip() for name in classes.split(",")),
        "mpps": mpps,
        "mean": mean,
        "std": std,
        "scale_to": scale_to,
        "activation": activation,
        "channel_order": channel_order,
        "output_stride": output_stride,
        **(size or {}),
    }
    stated = {name: value for name, value in given.items() if value is not None}
    if scale_to is not None and (mean or std or len(scale_to) != 2):
        raise click.UsageError("--scale-to takes two numbers, LOW,HIGH, and replaces --mean and --std")

    from wsi_magnet.nets.import_model import import_model as make

    described = _described(stated) if stated else _beside(file)
    if cell_px is not None:
        described = replace(described, cell_px=int(cell_px))
    spec = make(file, output, described, trusted=trusted, overwrite=overwrite)
    scales = ", ".join(f"{m:g}" for m in spec.mpps)
    click.echo(
        f"{output}: {spec.network_args['form']}, {len(spec.classes)} classes, scales {scales} µm/px, "
        f"cells of {spec.cell_px} px"
    )


def _arguments(given: tuple[str, ...]) -> dict[str, bool | int | float | str]:
    """Arguments of a network: numbers and true or false as in JSON, anything else as text."""
    try:
        words = options.pairs("--network-arg", given)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    found: dict[str, bool | int | float | str] = {}
    for name, word in words.items():
        try:
            value = json.loads(word)
        except ValueError:
            value = word
        found[name] = value if isinstance(value, bool | int | float) else word
    return found


@click.command("import-weights", short_help="Make a bundle from a state dict.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="X.safetensors")
@click.option("--network", required=True, metavar="NAME", help="A network of this package or of an installed one.")
@click.option("--network-arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@click.option("--classes", required=True, metavar="NAME,NAME,...", help="Class names in the network's order.")
@click.option(
    "--mpps",
    required=True,
    callback=_numbers,
    metavar="MPP[,MPP,...]",
    help="Microns per pixel that it was trained for: one, or several scales, coarse to fine, each half of the one "
    "before.",
)
@click.option(
    "--input-px",
    type=click.IntRange(1),
    metavar="PX",
    help="Side of the patches that it is to see, as in its training. [default: a cell and 64 pixels round it]",
)
@click.option("--mean", callback=_three, metavar="R,G,B", help="Subtracted from RGB / 255. [default: the network's]")
@click.option("--std", callback=_three, metavar="R,G,B", help="Divides the difference. [default: the network's]")
@click.option("--cell-px", type=click.Choice(["128", "256", "512"]), help="Side of the cells. [default: what fits]")
@click.option("--overwrite", is_flag=True, help="Replace the file of -o if it exists.")
def import_weights(
    file: Path,
    output: Path,
    network: str,
    arguments: tuple[str, ...],
    classes: str,
    mpps: tuple[float, ...],
    input_px: int | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    cell_px: str | None,
    overwrite: bool,
) -> None:
    """Make a bundle from FILE, a state dict (.pth or .safetensors), the weights of a network that is known by NAME.
    The file is read without running any code in it.

    \b
      wsi-magnet bundle import-weights fcn_resnet50_unet-bcss.pth --network fcn_resnet50_unet --mpps 0.25 \\
          --input-px 1024 --classes tumour,stroma,inflammatory,necrosis,others -o bcss.safetensors
    """
    given = _arguments(arguments)

    from wsi_magnet.nets.import_weights import WeightsDescription
    from wsi_magnet.nets.import_weights import import_weights as make

    described = WeightsDescription(
        network=network,
        network_args=given,
        classes=tuple(name.strip() for name in classes.split(",")),
        mpps=mpps,
        input_px=input_px,
        mean=mean,
        std=std,
        cell_px=int(cell_px) if cell_px else None,
    )
    spec = make(file, output, described, overwrite=overwrite)
    scales = ", ".join(f"{m:g}" for m in spec.mpps)
    click.echo(
        f"{output}: {spec.network}, {len(spec.classes)} classes, scales {scales} µm/px, cells of {spec.cell_px} px"
    )


@click.command("trust", short_help="Let the code of a bundle's model run.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--forget", is_flag=True, help="Do not let it run any more.")
def trust(bundle: Path, forget: bool) -> None:
    """Note that you trust the model in BUNDLE, a .pt2 or TorchScript file that somebody exported: its maker decides
    what runs on your machines. The model is recognised by its SHA-256, in whichever bundle it is.
    """
    from wsi_magnet.nets.spec import read_spec
    from wsi_magnet.nets.trust import running_model, trust_file
    from wsi_magnet.nets.trust import trust as note

    spec, _ = read_spec(bundle)
    sha256 = running_model(spec)
    if sha256 is None:
        click.echo(f"{bundle} holds no model that runs code; it needs no trust")
        return
    note(sha256, f"{spec.name}, {bundle}", forget=forget)
    click.echo(f"{sha256} of {bundle} is {'not trusted any more' if forget else 'trusted'}, by {trust_file()}")
