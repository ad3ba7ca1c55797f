"""Networks with the parity vectors' weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.parity.recipe import weights
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.nets.checkpoint import load_exactly
from wsi_magnet.nets.registry import build_network, build_refiner
from wsi_magnet.nets.spec import BundleSpec, ClassInfo

N_CLASSES = 5


def state(network: str, seed: int) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in weights(network, seed).items()}


def built(network: str, seed: int) -> nn.Module:
    """A backbone, or "refiner", in evaluation mode."""
    with torch.device("meta"):
        made = build_refiner("magnet", N_CLASSES) if network == "refiner" else build_network(network, N_CLASSES)
    load_exactly(made, state(network, seed), network)
    return made.eval().requires_grad_(False)


def fpn_bundle() -> Bundle:
    """That of the parity vectors of the loop."""
    spec = BundleSpec(
        name="parity",
        network="fpn",
        classes=tuple(ClassInfo(f"class {i}", i, (i, i, i)) for i in range(N_CLASSES)),
        mpps=(4.0, 2.0, 1.0),
        refiner_of=(0, 0),
        select_above=(0.0, 0.0),
        refine_above=(0.0, 0.0),
        temperature=(1.0, 1.0, 1.0),
    )
    return Bundle(spec, Path("parity"), "", built("fpn", 1), (built("refiner", 101),))
