"""Libraries of other people's networks, timm and segmentation_models_pytorch, which are installed by extras.

Both import torchvision, of which no network here uses a compiled operator, only layers and functions in Python. Beside
a torch of another build than its own, as the usual wheel beside a CPU build, its compiled part cannot be loaded, and
its import fails, since it describes two operators to torch that nobody has declared. They are declared then, without
an implementation: the import succeeds, and a call of such an operator would fail.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module, metadata
from types import ModuleType

import torch
from torch import Tensor, nn

from wsi_magnet.errors import BundleError

DISTRIBUTIONS = {"timm": "timm", "smp": "segmentation-models-pytorch"}
"""Distribution by the family of networks, which is the name of the extra too."""

DECLARED = ("torchvision::nms", "torchvision::qnms")
"""Operators that torchvision describes on import, whether or not its compiled part is there."""

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_outside(module: str, family: str) -> ModuleType:
    """A library by the name of its module. family: "timm" or "smp".

    Raises BundleError, naming the extra, where it is not installed or cannot be imported.
    """
    cure = f'pip install "wsi-magnet[{family}]"'
    try:
        with warnings.catch_warnings(action="ignore"):  # that parts of torchvision cannot be loaded, which nothing uses
            _import_torchvision()
            return import_module(module)
    except ModuleNotFoundError as error:
        raise BundleError(f"networks of {family!r} need {error.name}, which is not installed: {cure}") from None
    except Exception as error:  # another package's code may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BundleError(
            f"networks of {family!r} need {module}, which cannot be imported ({reason}): {cure}"
        ) from error


def _import_torchvision() -> None:
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if not any(name in str(error) for name in DECLARED):
            raise
        for name in DECLARED:
            torch.library.define(name, SCHEMA)
        import_module("torchvision")


def version_of(family: str) -> str | None:
    """Name and version of the installed distribution of a family; None where it is not installed."""
    try:
        return f"{DISTRIBUTIONS[family]} {metadata.version(DISTRIBUTIONS[family])}"
    except metadata.PackageNotFoundError:
        return None


def encoder_weights(given: Mapping[str, Tensor], encoder: nn.Module, heads: Iterable[str] = ()) -> dict[str, Tensor]:
    """The tensors of a classifier's file that its encoder has, by the encoder's names.

    heads: names of layers that only the classifier has. Tensors of layers that the encoder lacks altogether are left
    out; others that do not fit stay, and are refused with their names where the weights are loaded.
    """
    layers = {key.partition(".")[0] for key in encoder.state_dict()}
    dropped = tuple(f"{head}." for head in heads)
    return {
        key: tensor for key, tensor in given.items() if key.partition(".")[0] in layers and not key.startswith(dropped)
    }
