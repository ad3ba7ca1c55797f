"""Peak memory of one forward pass of each network and of the refiner, in bytes for each pixel of the patch.

    python -m tests.benchmarks.activations

The numbers of `wsi_magnet/estimate.py` come from here. Each is measured in a process of its own, against one that does
everything but the forward pass.
"""

from __future__ import annotations

import sys

from tests.benchmarks.measure import machine, measure

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
    """Print a row a network."""
    print(f"# {machine()}; patch {SIDE_PX} x {SIDE_PX}, {CLASSES} classes, float32")
    program = PROGRAM.format(side=SIDE_PX, classes=CLASSES)
    for name in ("small", "fpn", "psp", "hrnet18+ocr", "identity", "refiner"):
        peaks = [measure([sys.executable, "-c", program, name, how]).peak_bytes for how in ("run", "load")]
        print(f"{name:12s} {(peaks[0] - peaks[1]) / SIDE_PX**2:8.0f} bytes/px")


if __name__ == "__main__":
    main()
