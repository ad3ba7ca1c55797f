"""Print the cost of every network: parameters, and multiply-adds for one pixel of the input.

Usage: python pipelines/flops.py [--side 576] [--time]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wsi_magnet.magnet.step import uses_rgb
from wsi_magnet.nets.registry import GATES, build_network, build_refiner

NETWORKS = ("small", "hrnet18+ocr", "fpn", "psp")
REFINERS = ("magnet", "light", "pool", *GATES)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=576, help="height and width of the input, in pixels")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--time", action="store_true", help="also time each once, on one thread")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'network':<18}{'parameters':>14}{'multiply-adds/pixel':>22}{'seconds' if args.time else '':>10}")
    image = torch.randn(1, 3, args.side, args.side)
    for name in NETWORKS:
        network = build_network(name, args.classes)
        print(row(name, network, partial(network, image), args.side, args.time))
    maps = torch.rand(1, args.classes, args.side, args.side)
    for name in REFINERS:
        refiner = build_refiner(name, args.classes)
        rgb = {"rgb": image} if uses_rgb(refiner) else {}
        print(row(f"refiner {name}", refiner, partial(refiner, fine=maps, coarse=maps, **rgb), args.side, args.time))


@torch.inference_mode()
def row(name: str, network: nn.Module, forward: Callable[[], Tensor], side: int, timed: bool) -> str:
    """One line of the table."""
    network.eval()
    parameters = sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter:
        forward()
    multiply_adds = counter.get_total_flops() / 2 / side**2
    seconds = f"{clock(forward):>10.3f}" if timed else ""
    return f"{name:<18}{parameters:>14,}{multiply_adds:>22,.0f}{seconds}"


def clock(forward: Callable[[], Tensor]) -> float:
    """Seconds for one call, the faster of two."""
    durations = []
    for _ in range(2):
        started = time.perf_counter()
        forward()
        durations.append(time.perf_counter() - started)
    return min(durations)


if __name__ == "__main__":
    main()
