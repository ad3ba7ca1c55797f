"""Import of a state dict, weights without their network, as a bundle with a network that is known here by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from wsi_magnet.config import CELL_SIDES_PX
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.geometry import round_up
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.checkpoint import load_exactly, read_checkpoint
from wsi_magnet.nets.gate import PoolModule
from wsi_magnet.nets.network import probe
from wsi_magnet.nets.registry import network_info, package_of, unloaded
from wsi_magnet.nets.spec import MOST_PATCH_PX, Argument, BundleSpec, check_output
from wsi_magnet.nets.untrained import cell_for, untrained_card, untrained_spec
from wsi_magnet.scales import check_mpps
from wsi_magnet.schema import Bounds
from wsi_magnet.values import check_fields, documented

TRIED_PX = 192
"""Least side of the patch on which a network that takes any is tried."""


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsDescription:
    """Facts that a state dict does not state. Raises ConfigError for values that are not allowed."""

    network: str
    """Name of the network, one of this package or of another one."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of its channels."""
    mpps: tuple[float, ...]
    """Microns per pixel for which it was trained: one, or several, coarse to fine, each half of the one before."""
    network_args: Mapping[str, Argument] = field(default_factory=dict)
    """Arguments of the network besides the number of classes."""
    input_px: Annotated[int, Bounds(1, MOST_PATCH_PX)] | None = None
    """Side of the patches that it is to see, those of its training; None: a cell with a halo of 64 pixels."""
    mean: tuple[float, float, float] | None = None
    """Mean that is subtracted from RGB / 255; None: the network's own."""
    std: tuple[float, float, float] | None = None
    """Standard deviation by which the difference is then divided; None: the network's own."""
    cell_px: int | None = None
    """Side of the cells; None: the largest that leaves enough context."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_mpps(self.mpps)
        if self.std and min(self.std) <= 0:
            raise ConfigError(f"std {list(self.std)} is not positive", arguments=("std",))
        if self.cell_px is not None and self.cell_px not in CELL_SIDES_PX:
            raise ConfigError(f"cell_px {self.cell_px} is not 128, 256 or 512", arguments=("cell_px",))


def import_weights(
    path: str | Path, output: str | Path, described: WeightsDescription, *, overwrite: bool = False
) -> BundleSpec:
    """Make a bundle of a state dict: a .pth file, which is read without running code in it, or .safetensors.

    Prefixes of wrappers, `module.` and `model.`, are taken off where that makes the names fit. Nothing is written
    unless every tensor fits the network, and it computes a patch. Raises BundleError, with the first tensor that does
    not fit; ConfigError; StoreError where the output exists, unless overwrite is True.
    """
    check_output(output, overwrite=overwrite)
    path = Path(path).expanduser()
    info = network_info(described.network)
    if not info.trainable:
        raise BundleError(f"network {described.network!r} takes no state dict; it comes from import-model")
    state, sha256 = _read(path)
    backbone = unloaded(info, len(described.classes), described.network_args)
    kept = {key: tensor for key, tensor in state.items() if key not in info.unused_keys}
    load_exactly(backbone, kept, f"{path} as {described.network}")
    scales = len(described.mpps)
    spec = untrained_spec(
        name=path.stem,
        network=described.network,
        network_args=info.checked(described.network_args),
        network_package=package_of(described.network),
        classes=described.classes,
        mpps=described.mpps,
        mean=described.mean or info.mean,
        std=described.std or info.std,
        cell_px=described.cell_px or cell_for(described.input_px, scales),
        patch_px=described.input_px,
        card=untrained_card("import-weights", path.name, sha256),
    )
    side = described.input_px or TRIED_PX
    probe(info, backbone, len(described.classes), round_up(side, info.input_multiple))
    save_bundle(output, spec, backbone, [PoolModule()] if spec.n_refiners else [])
    return spec


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors by name, and the file's SHA-256."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix != ".safetensors":
            return read_checkpoint(path), sha256
        return dict(safetensors.torch.load_file(path)), sha256
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{path}: {reason}; give a .pth or .safetensors file") from None
