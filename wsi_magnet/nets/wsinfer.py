"""WSInfer's `config.json`: the description of a patch classifier that lies beside its TorchScript file.

The keys are those of `model-config.schema.json` of the WSInfer model zoo, version 1.0 (Kaczmarzyk et al. 2024). The
file is data; nothing of it is run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.nets.import_model import ModelDescription
from wsi_magnet.nets.spec import MOST_PATCH_PX
from wsi_magnet.schema import Bounds, SchemaError, parse

CONFIG_NAME = "config.json"

MOST_BYTES = 1_000_000
"""Upper limit of the file's size; those of the zoo have a thousandth of it."""

MOST_CLASSES = 254
"""As many labels as a mask has."""

Three = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Transform:
    """One preparation of a patch, by torchvision's name."""

    name: Literal["Resize", "ToTensor", "Normalize"]
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResizeArguments:
    """Arguments of torchvision's Resize."""

    size: int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NormalizeArguments:
    """Arguments of torchvision's Normalize: per channel of RGB / 255."""

    mean: Three
    std: Three


@dataclass(frozen=True, slots=True)
class WsinferConfig:
    """Content of the file."""

    spec_version: Literal["1.0"]
    architecture: str
    num_classes: Annotated[int, Bounds(1, MOST_CLASSES)]
    class_names: tuple[str, ...]
    patch_size_pixels: Annotated[int, Bounds(1, MOST_PATCH_PX)]
    spacing_um_px: Annotated[float, Bounds(0.01, 100)]
    transform: tuple[Transform, ...]


def has_config(folder: Path) -> bool:
    """True where a folder holds a file of that name."""
    return (folder / CONFIG_NAME).is_file()


def read_config(folder: Path) -> ModelDescription:
    """The description of the model beside a `config.json`.

    A model with one class returns the probability of that one, and "other" is its first class here. Raises BundleError,
    naming the file and the key, for a file that is none of WSInfer's, and for preparations other than Resize to a
    square, ToTensor and Normalize, in this order.
    """
    path = folder / CONFIG_NAME
    try:
        config: WsinferConfig = parse(WsinferConfig, _read(path), "", unknown="ignore")
        size_px, normalised = _prepared(config.transform)
        return ModelDescription(
            classes=_classes(config),
            mpps=(config.spacing_um_px,),
            input_px=config.patch_size_pixels,
            resized_px=size_px,
            mean=normalised.mean,
            std=normalised.std,
            classifies=True,
        )
    except (SchemaError, ConfigError) as error:
        raise BundleError(f"{path} is no WSInfer description: {error}") from None


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from None
    if len(content) > MOST_BYTES:
        raise SchemaError(f"it has more than {MOST_BYTES:,} bytes")
    try:
        found: object = json.loads(content)
    except (ValueError, RecursionError):  # bytes that are no text raise a ValueError
        raise SchemaError("it is not JSON") from None
    return found


def _classes(config: WsinferConfig) -> tuple[str, ...]:
    names = config.class_names
    if len(names) != config.num_classes:
        raise SchemaError(f"class_names has {len(names)} names, and num_classes is {config.num_classes}")
    if len(names) > 1:
        return names
    return ("other" if names[0].strip().lower() != "other" else "not other", *names)


def _prepared(transforms: Sequence[Transform]) -> tuple[int | None, NormalizeArguments]:
    """Side to which patches are resized, None where they are not, and their normalisation."""
    names = [one.name for one in transforms]
    if names != [one for one in ("Resize", "ToTensor", "Normalize") if one in names] or "ToTensor" not in names:
        raise SchemaError(f"transform is {', '.join(names) or 'empty'}; known is Resize, ToTensor, Normalize")
    given = {one.name: one.arguments for one in transforms}
    if given["ToTensor"]:
        raise SchemaError("transform: ToTensor takes no arguments")
    size_px = None
    if "Resize" in given:
        resize: ResizeArguments = parse(ResizeArguments, given["Resize"], "transform.Resize")
        size_px = _side(resize.size)
    if "Normalize" not in given:
        return size_px, NormalizeArguments((0.0,) * 3, (1.0,) * 3)
    normalised: NormalizeArguments = parse(NormalizeArguments, given["Normalize"], "transform.Normalize")
    return size_px, normalised


def _side(size: int | tuple[int, ...]) -> int:
    sides = (size, size) if isinstance(size, int) else size * 2 if len(size) == 1 else size
    if len(sides) != 2 or sides[0] != sides[1] or not 1 <= sides[0] <= MOST_PATCH_PX:
        raise SchemaError(f"transform.Resize.size {list(sides)} is no square of 1 to {MOST_PATCH_PX} pixels")
    return sides[0]
