"""Published weights for a network's trunk, from a local file: an ImageNet classifier's, or a foundation encoder's."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.checkpoint import load_exactly, read_checkpoint
from wsi_magnet.nets.network import Trunk
from wsi_magnet.nets.registry import network_info

COUNTER = ".num_batches_tracked"
"""Suffix of a counter that checkpoints of before 2018 lack; nothing depends on it."""


def load_encoder(network: nn.Module, name: str, path: str | Path) -> None:
    """Load published weights into the trunk of a network, all or none; the rest is unchanged.

    name: of the network. path: a .pth, .bin or .safetensors, read without running code. Raises BundleError for a
    file that does not fit, and for a network without such a trunk.
    """
    trunk = network_info(name).trunk
    if trunk is None:
        raise BundleError(
            f"network {name!r} takes no encoder weights; leave the encoder out, or choose another network"
        )
    what = f"{path} as the trunk of {name}"
    given = {key: tensor for key, tensor in _read(Path(path)).items() if _layer(key) not in trunk.heads}
    try:
        found = trunk.translate(given, network) if trunk.translate else given
    except BundleError as error:
        raise BundleError(f"{what} does not fit: {error}") from None
    own = {
        key: tensor
        for key, tensor in network.state_dict().items()
        if not _in_trunk(key, trunk) or key.endswith(COUNTER)
    }
    load_exactly(network, {**own, **{trunk.prefix + key: one for key, one in found.items()}}, what)


def _in_trunk(key: str, trunk: Trunk) -> bool:
    layer = _layer(key.removeprefix(trunk.prefix))
    return key.startswith(trunk.prefix) and (not trunk.layers or layer in trunk.layers)


def _layer(key: str) -> str:
    return key.partition(".")[0]


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_checkpoint(path)
    try:
        return dict(safetensors.torch.load_file(path))
    except (SafetensorError, OSError) as error:
        raise BundleError(f"encoder {path} cannot be read ({error}); give a .pth, .bin or .safetensors file") from None
