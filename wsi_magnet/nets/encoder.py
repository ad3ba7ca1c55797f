"""ImageNet weights for a network's trunk, from a local file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.checkpoint import load_exactly, read_checkpoint


@dataclass(frozen=True, slots=True)
class Trunk:
    """Position of an ImageNet classifier's layers in a network."""

    prefix: str
    """Prefix of the classifier's own keys."""
    layers: tuple[str, ...]
    """Top-level names of the classifier's layers in the trunk."""
    heads: tuple[str, ...]
    """Top-level names of the layers that the trunk lacks; dropped from the file."""


_RESNET = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
_HRNET = ("conv1", "bn1", "conv2", "bn2", "layer1", "transition1", "stage2", "transition2", "stage3", "transition3")

TRUNKS: Mapping[str, Trunk] = {
    "fpn": Trunk("resnet_backbone.", _RESNET, ("fc",)),
    "psp": Trunk("feats.", _RESNET, ("fc",)),
    "hrnet18+ocr": Trunk("", (*_HRNET, "stage4"), ("incre_modules", "downsamp_modules", "final_layer", "classifier")),
}
"""Trunk by network: ResNet-50, ResNet-101 and HRNetV2-W18-small-v2, with their usual ImageNet keys."""

COUNTER = ".num_batches_tracked"
"""Suffix of a counter that checkpoints of before 2018 lack; nothing depends on it."""


def load_encoder(network: nn.Module, name: str, path: str | Path) -> None:
    """Load ImageNet weights into the trunk of a network, all or none; the rest is unchanged.

    name: of the network. path: a .pth or .safetensors, read without running code. Raises BundleError for a file that
    does not fit, and for a network without such a trunk.
    """
    if name not in TRUNKS:
        raise BundleError(f"network {name!r} takes no encoder weights; those that do are {', '.join(TRUNKS)}")
    trunk = TRUNKS[name]
    found = {trunk.prefix + key: tensor for key, tensor in _read(Path(path)).items() if _layer(key) not in trunk.heads}
    own = {
        key: tensor
        for key, tensor in network.state_dict().items()
        if not _in_trunk(key, trunk) or key.endswith(COUNTER)
    }
    load_exactly(network, {**own, **found}, f"{path} as the trunk of {name}")


def _in_trunk(key: str, trunk: Trunk) -> bool:
    return key.startswith(trunk.prefix) and _layer(key.removeprefix(trunk.prefix)) in trunk.layers


def _layer(key: str) -> str:
    return key.partition(".")[0]


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_checkpoint(path)
    try:
        return dict(safetensors.torch.load_file(path))
    except (SafetensorError, OSError) as error:
        raise BundleError(f"encoder {path} cannot be read ({error}); give a .pth or .safetensors file") from None
