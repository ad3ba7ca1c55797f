"""Networks `timm:NAME`: an encoder of timm with a light decoder of our own.

N: batch, C: classes, H, W: size of the input. Strides are relative to the input. No weights are downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.network import NetworkInfo, Trunk
from wsi_magnet.nets.outside import encoder_weights, import_outside
from wsi_magnet.nets.small import conv_bn, upsample
from wsi_magnet.nets.spec import IMAGENET_MEAN, IMAGENET_STD
from wsi_magnet.schema import Bounds
from wsi_magnet.text import near_names

STRIDES = (4, 8, 16, 32)
"""Strides of the features that the decoder takes, those of them that the encoder has."""

ACTIVATION_BYTES_PER_PX = 1500


@dataclass(frozen=True, slots=True)
class _Stages:
    """Features of an encoder that the decoder takes, fine to coarse."""

    indices: tuple[int, ...]
    channels: tuple[int, ...]


class TimmNet(nn.Module):
    """An encoder of timm, a top-down decoder to its finest features, bilinear to the input's size."""

    def __init__(self, n_classes: int, name: str, width: int) -> None:
        """name: of timm. width: channels of the decoder. Raises BundleError."""
        super().__init__()
        timm = import_outside("timm", "timm")
        stages = _stages(timm, name)
        options = {"features_only": True, "feature_cls": "getter", "out_indices": stages.indices}
        self.encoder = timm.create_model(name, pretrained=False, **options)
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in stages.channels)
        self.smooth = nn.ModuleList(conv_bn(width, width) for _ in stages.channels)
        self.classify = nn.Conv2d(width, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised RGB, float (N, 3, H, W), to logits (N, C, H, W)."""
        merged: Tensor | None = None
        layers = list(zip(self.encoder(x), self.laterals, self.smooth, strict=True))
        for features, lateral, smooth in reversed(layers):
            level = lateral(features)
            merged = smooth(level if merged is None else level + upsample(merged, level.shape[-2:]))
        assert merged is not None
        return upsample(self.classify(merged), x.shape[-2:])


def timm_info(name: str) -> NetworkInfo:
    """Description of `timm:NAME`. Raises BundleError for an unknown name, and where timm is not installed."""
    timm = import_outside("timm", "timm")
    architecture = name.partition(".")[0]
    if ":" in name or "/" in name or not timm.is_model(architecture):
        near = near_names(architecture, timm.list_models())
        raise BundleError(f"network 'timm:{name}' is no model of timm {timm.__version__}; {near}")
    known = [one.rpartition(".")[2] for one in timm.list_pretrained(architecture + ".*")]
    if "." in name and name.partition(".")[2] not in known:
        raise BundleError(
            f"network 'timm:{name}' has weights that timm {timm.__version__} does not know; "
            f"{near_names(name.partition('.')[2], known)}"
        )
    config = timm.get_pretrained_cfg(name)
    given = {} if config is None else config.to_dict()

    def translate(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        assert isinstance(network, TimmNet)
        classifier = given.get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        return encoder_weights(weights, network.encoder.get_submodule("model"), heads)

    return NetworkInfo(
        f"timm:{name}",
        _builder(name),
        input_multiple=32,
        mean=given.get("mean") or IMAGENET_MEAN,
        std=given.get("std") or IMAGENET_STD,
        head="classify",
        trunk=Trunk("encoder.model.", translate=translate, licence=_licence(name, given)),
        encoder=("encoder",),
        activation_bytes_per_px=ACTIVATION_BYTES_PER_PX,
    )


def _licence(name: str, given: Mapping[str, Any]) -> str | None:
    """Licence of the weights that a name states after its dot; a name without them may be given any."""
    return f"{given['license']} ({name}, timm)" if "." in name and given.get("license") else None


def _builder(name: str) -> Callable[..., nn.Module]:
    def build(n_classes: int, width: Annotated[int, Bounds(8, 1024)] = 64) -> nn.Module:
        return TimmNet(n_classes, name, width)

    return build


def _stages(timm: Any, name: str) -> _Stages:
    """Features of an encoder at `STRIDES`. Raises BundleError for one that has none of several strides."""
    try:
        with torch.device("meta"):
            made = timm.create_model(name, pretrained=False, features_only=True, feature_cls="getter")
    except Exception as error:  # another package's code may raise anything
        raise BundleError(
            f"network 'timm:{name}' has no features for a decoder ({type(error).__name__}: {error}); take another one"
        ) from error
    by_stride = {
        int(stride): (index, int(channels))
        for index, stride, channels in zip(
            made.feature_info.out_indices, made.feature_info.reduction(), made.feature_info.channels(), strict=True
        )
    }
    taken = [by_stride[stride] for stride in STRIDES if stride in by_stride]
    if len(taken) < 2:
        raise BundleError(
            f"network 'timm:{name}' has features at strides {sorted(by_stride)} alone, and a decoder needs two of "
            f"{', '.join(map(str, STRIDES))}; take a convolutional or hierarchical encoder, or one of vit:"
        )
    return _Stages(tuple(index for index, _ in taken), tuple(channels for _, channels in taken))


INFO = timm_info
