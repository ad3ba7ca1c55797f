"""MagNet's loop on an image in memory, against its forward passes alone and against the published form.

    python -m benchmarks.loop [--side 2448]

As on DeepGlobe: three scales, patches of a quarter of the side, all of them refined, ResNet50-FPN with 7 classes. The
forward passes alone are 21 of the backbone and 20 of the refinement module on tensors in memory, in the form and
precision of the loop. The published form is the same 41 forward passes with channels first, separate batch
normalisation and whole patches, as the published program computes them, without any of its other work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from benchmarks.made import fpn_spec
from benchmarks.record import Aim, Measurement, Table, benchmark
from tests.slides_made import stained
from wsi_magnet.config import Precision
from wsi_magnet.geometry import Size
from wsi_magnet.inference.image import segment_image
from wsi_magnet.inference.optimize import ARITHMETIC, Arithmetic, computing_in, inference_form, resolve_precision
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.nets.refiner import RefinementModule
from wsi_magnet.nets.registry import build_network, build_refiner
from wsi_magnet.system import keep_memory_steady

N_CLASSES, MOST, LEAST = 7, 1.2, 2.5
BACKBONE_PASSES, REFINER_PASSES = 21, 20


def options(parser: argparse.ArgumentParser) -> None:
    """Options: size of the image."""
    parser.add_argument("--side", type=int, default=2448, help="of the finest image; a multiple of 16")
    parser.add_argument("--runs", type=int, default=3, help="of each; the shortest counts")


def measure(arguments: argparse.Namespace) -> Measurement:
    """Measure the loop and the forward passes, one row each."""
    torch.manual_seed(0)
    bundle = made_bundle()
    patch = arguments.side // 4
    finest = Pillow.fromarray(stained(Size(arguments.side, arguments.side)))
    images = [np.asarray(finest.resize((side, side), Pillow.Resampling.BILINEAR)) for side in (patch, 2 * patch)]
    images.append(np.asarray(finest))
    image = torch.rand(1, 3, patch, patch)
    maps = torch.rand(1, N_CLASSES, patch, patch).softmax(dim=1)
    here, refiner = torch.device("cpu"), bundle.refiners[0]

    def run_forward(backbone: nn.Module | None, merge: Callable[[Tensor, Tensor], Tensor] | None, x: Tensor) -> None:
        with torch.inference_mode():
            for _ in range(BACKBONE_PASSES if backbone else 0):
                backbone(x)  # type: ignore[misc]
            for _ in range(REFINER_PASSES if merge else 0):
                merge(maps, maps)  # type: ignore[misc]

    def whole(fine: Tensor, coarse: Tensor) -> Tensor:
        assert isinstance(refiner, RefinementModule)
        return refiner.merge_whole(torch.cat((fine, coarse), dim=1))

    # The published form first, before the process's allocator is tuned.
    published = shortest(lambda: run_forward(bundle.backbone, whole, image), arguments.runs)
    keep_memory_steady()
    laid_out = image.contiguous(memory_format=torch.channels_last)
    rows, aims = [["the published form of the forward passes, float32", f"{published:.2f}", "", ""]], []
    default = resolve_precision("auto", here)
    for precision in dict.fromkeys(("fp32", default)):
        kind = ARITHMETIC[precision]
        backbone, merging = (
            inference_form(bundle.backbone, here, kind.backbone),
            inference_form(refiner, here, kind.refiner),
        )

        def alone(backbone: nn.Module = backbone, merging: nn.Module = merging, kind: Arithmetic = kind) -> None:
            with computing_in(kind.backbone, here):
                run_forward(backbone, None, laid_out)
            with computing_in(kind.refiner, here):
                run_forward(None, lambda o, y: merging(fine=o, coarse=y), laid_out)

        def loop(precision: Precision = precision) -> None:
            segment_image(images, bundle, precision=precision)

        ours, least = shortest(loop, arguments.runs), shortest(alone, arguments.runs)
        rows += [
            [f"segment_image, {precision}", f"{ours:.2f}", f"{ours / least:.2f}", f"{published / ours:.2f}"],
            [f"its forward passes alone, {precision}", f"{least:.2f}", "1.00", f"{published / least:.2f}"],
        ]
        aims.append(Aim(f"segment_image / its forward passes alone, {precision}", ours / least, MOST))
        if precision == default:
            aims.append(Aim(f"published form / segment_image, {precision}", published / ours, LEAST, "at least"))
    note = (
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; the shortest of {arguments.runs}. "
        f"{default} is what segment_image chooses here."
    )
    columns = ("what", "seconds", "times its forward passes", "times as quick as the published form")
    return Measurement(Table(columns, rows), aims, [note])


def made_bundle() -> Bundle:
    """A bundle in memory with random weights."""
    networks = [build_network("fpn", N_CLASSES), build_refiner("magnet", N_CLASSES)]
    backbone, refiner = (network.eval().requires_grad_(False) for network in networks)
    return Bundle(fpn_spec(n_classes=N_CLASSES), Path("made"), "", backbone, (refiner,))


def shortest(work: Callable[[], object], runs: int) -> float:
    """Seconds of the fastest of several runs."""
    found = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


if __name__ == "__main__":
    benchmark("loop", "MagNet's loop on an image", measure, options)
