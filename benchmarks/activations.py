"""Peak memory of one forward pass of each network and of the refiner, in bytes for each pixel of the patch.

    python -m benchmarks.activations

The numbers of `wsi_magnet/planning/estimate.py` come from here. Each is measured in its own process, against one that
does everything but the forward pass.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.measure import measure
from benchmarks.record import Measurement, Table, benchmark
from wsi_magnet.planning.estimate import ACTIVATION_BYTES_PER_PX, REFINER_BYTES_PER_PX

SIDE_PX, CLASSES = 576, 5

PROGRAM = """
import sys, torch
from wsi_magnet.nets.registry import build_network, build_refiner
name, run = sys.argv[1], sys.argv[2] == "run"
torch.set_num_threads(1)
side, classes = {side}, 3 if name == "identity" else {classes}
net = build_refiner("magnet", classes) if name == "refiner" else build_network(name, classes)
net = net.eval()
maps = torch.rand(1, classes, side, side).softmax(1)
inputs = dict(fine=maps, coarse=maps) if name == "refiner" else dict(x=torch.rand(1, 3, side, side))
with torch.inference_mode():
    if run:
        net(**inputs)
"""


def main() -> None:
    """Measure every network, one row each."""
    benchmark("activations", "Memory of a forward pass", measure_all)


def measure_all(options: argparse.Namespace) -> Measurement:
    """Measure each network, beside the value that `wsi-magnet plan` assumes."""
    del options
    reckoned = {**ACTIVATION_BYTES_PER_PX, "refiner": REFINER_BYTES_PER_PX}
    rows = [[name, f"{bytes_per_px(name):.0f}", f"{planned}"] for name, planned in reckoned.items()]
    return Measurement(
        Table(["network", "bytes a pixel", "reckoned with"], rows),
        notes=[f"Patches of {SIDE_PX} x {SIDE_PX} pixels, {CLASSES} classes, float32, one thread."],
    )


def bytes_per_px(name: str) -> float:
    """Memory that a forward pass adds to the peak, in bytes for each pixel."""
    program = PROGRAM.format(side=SIDE_PX, classes=CLASSES)
    run, load = (measure([sys.executable, "-c", program, name, how]).peak_bytes for how in ("run", "load"))
    return (run - load) / SIDE_PX**2


if __name__ == "__main__":
    main()
