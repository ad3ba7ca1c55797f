"""Size, arithmetic and memory of the networks `vit:VARIANT`.

    python -m benchmarks.encoders

Multiply-adds are counted without computing. Memory is measured as in `benchmarks.activations`, with four blocks of each
transformer, since the peak of a forward pass does not depend on their number; weights are not counted in it.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import measure
from benchmarks.record import Measurement, Table, benchmark
from wsi_magnet.nets.registry import network_info, unloaded
from wsi_magnet.nets.vit_adapter import VitNet
from wsi_magnet.nets.vit_variants import VARIANTS
from wsi_magnet.text import byte_text

SIDE_PX, CLASSES, BLOCKS, BYTES_PER_WEIGHT = 576, 3, 4, 4

PROGRAM = """
import dataclasses, sys, torch
from wsi_magnet.nets.vit_adapter import VitNet
from wsi_magnet.nets.vit_variants import VARIANTS
torch.set_num_threads(1)
shape = dataclasses.replace(VARIANTS[sys.argv[1]].shape, depth={blocks})
with torch.device("meta"):
    network = VitNet({classes}, shape, 64, 224)
network = network.to_empty(device="cpu").eval()
for tensor in (*network.parameters(), *network.buffers()):
    tensor.data.fill_(1)
x = torch.rand(1, 3, {side}, {side})
with torch.inference_mode():
    if sys.argv[2] == "run":
        network(x)
"""


def main() -> None:
    """Measure every variant, one row each."""
    benchmark("encoders", "Frozen encoders", measure_all)


def measure_all(options: argparse.Namespace) -> Measurement:
    """Count and measure each variant, beside the memory that `wsi-magnet plan` assumes."""
    del options
    rows = []
    for name, variant in VARIANTS.items():
        network = unloaded(network_info(f"vit:{name}"), CLASSES, {})
        assert isinstance(network, VitNet)
        frozen, learned = (
            sum(one.numel() for one in network.parameters() if one.requires_grad is wanted) for wanted in (False, True)
        )
        rows.append(
            [
                f"vit:{name}",
                f"{frozen / 1e6:.1f} million",
                f"{learned / 1e6:.2f} million",
                byte_text(BYTES_PER_WEIGHT * (frozen + learned)),
                f"{multiply_adds(network) / 1000:,.0f}",
                f"{bytes_per_px(name):.0f}",
                f"{variant.activation_bytes_per_px}",
            ]
        )
    columns = [
        "network",
        "frozen",
        "learned",
        "weights",
        "1000 multiply-adds a pixel",
        "bytes a pixel",
        "reckoned with",
    ]
    notes = [f"Patches of {SIDE_PX} x {SIDE_PX} pixels, {CLASSES} classes, float32, one thread."]
    return Measurement(Table(columns, rows), notes=notes)


def multiply_adds(network: VitNet) -> float:
    """Multiply-adds of a patch, for each pixel. network: on the meta device."""
    x = torch.empty(1, 3, SIDE_PX, SIDE_PX, device="meta")
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        network.eval()(x)
    return float(counted.get_total_flops()) / 2 / SIDE_PX**2


def bytes_per_px(name: str) -> float:
    """Memory that a forward pass adds to the peak, in bytes for each pixel."""
    program = PROGRAM.format(side=SIDE_PX, classes=CLASSES, blocks=BLOCKS)
    run, load = (measure([sys.executable, "-c", program, name, how]).peak_bytes for how in ("run", "load"))
    return (run - load) / SIDE_PX**2


if __name__ == "__main__":
    main()
