"""ImageNet weights for a network's trunk, from a local file."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.checkpoint import read_checkpoint
from wsi_magnet.nets.state import load_exactly

TRUNK = {"fpn": "resnet_backbone", "psp": "feats"}
"""The attribute that holds the ResNet of each network that has one: ResNet-50 and ResNet-101."""

CLASSIFIER = "fc."
"""ImageNet's own classes, which nobody needs here."""


def load_encoder(network: nn.Module, name: str, path: str | Path) -> None:
    """Put ImageNet weights into the trunk of a network, all of them or none.

    name: the network's. path: a .pth or .safetensors with the usual ResNet keys (conv1, bn1, layer1 ... layer4), read
    without running code. Raises BundleError for a file that does not fit, or a network without such a trunk.
    """
    if name not in TRUNK:
        raise BundleError(f"network {name!r} takes no encoder weights; those that do are {', '.join(TRUNK)}")
    state = {key: value for key, value in _read(Path(path)).items() if not key.startswith(CLASSIFIER)}
    load_exactly(getattr(network, TRUNK[name]), state, f"{path} as the trunk of {name}")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_checkpoint(path)
    try:
        return dict(safetensors.torch.load_file(path))
    except (SafetensorError, OSError) as error:
        raise BundleError(f"encoder {path} cannot be read ({error}); give a .pth or .safetensors file") from None
