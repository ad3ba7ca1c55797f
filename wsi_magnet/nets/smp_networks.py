"""Networks `smp:ARCHITECTURE/ENCODER` of segmentation_models_pytorch. No weights are downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.network import NetworkInfo, Trunk
from wsi_magnet.nets.outside import encoder_weights, import_outside
from wsi_magnet.text import near_names

MODULE = "segmentation_models_pytorch"

UNIVERSAL = "tu-"
"""Prefix of encoders that are timm's."""

ACTIVATION_BYTES_PER_PX = 2500

LEAST_MULTIPLE = 32
"""Required divisor of the input's sides: the coarsest stride of the encoders."""


def smp_info(variant: str) -> NetworkInfo:
    """Description of `smp:ARCHITECTURE/ENCODER`. Raises BundleError for an unknown name, and where the library is not
    installed.
    """
    smp = import_outside(MODULE, "smp")
    architecture, slash, encoder = variant.partition("/")
    architectures = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
    if not slash or not encoder:
        raise BundleError(
            f"network 'smp:{variant}' names no encoder; write smp:ARCHITECTURE/ENCODER, such as smp:unet/resnet34; "
            f"architectures: {', '.join(architectures)}"
        )
    if architecture not in architectures:
        near = near_names(architecture, architectures, len(architectures))
        raise BundleError(f"network 'smp:{variant}': {architecture!r} is no architecture of smp; {near}")
    _require_encoder(smp.encoders.get_encoder_names(), variant, encoder)
    return NetworkInfo(
        f"smp:{variant}",
        _builder(architecture, encoder),
        input_multiple=LEAST_MULTIPLE,
        head="segmentation_head.0",
        trunk=Trunk("encoder.", translate=_translate),
        encoder=("encoder",),
        activation_bytes_per_px=ACTIVATION_BYTES_PER_PX,
    )


def _require_encoder(known: list[str], variant: str, encoder: str) -> None:
    if encoder in known:
        return
    if encoder.startswith(UNIVERSAL):
        timm = import_outside("timm", "smp")
        name = encoder.removeprefix(UNIVERSAL)
        if ":" not in name and "/" not in name and timm.is_model(name.partition(".")[0]):
            return
        raise BundleError(
            f"network 'smp:{variant}': {name!r} is no model of timm {timm.__version__}; "
            f"{near_names(name, timm.list_models())}"
        )
    raise BundleError(
        f"network 'smp:{variant}': {encoder!r} is no encoder of smp; {near_names(encoder, known)}; those of timm are "
        f"{UNIVERSAL}NAME"
    )


def _builder(architecture: str, encoder: str) -> Callable[..., nn.Module]:
    def build(n_classes: int) -> nn.Module:
        smp = import_outside(MODULE, "smp")
        found = smp.create_model(architecture, encoder_name=encoder, encoder_weights=None, classes=n_classes)
        if not isinstance(found, nn.Module):
            raise BundleError(f"smp made {type(found).__name__}, not a module")
        return found

    return build


def _translate(given: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    return encoder_weights(given, network.get_submodule("encoder"))


INFO = smp_info
