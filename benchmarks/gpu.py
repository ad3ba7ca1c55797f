"""A GPU: speed of the networks alone and of a whole slide, utilisation, and labels that half precision changes.

    python -m benchmarks.gpu [--side 100000] [--tissue 0.2] [--device cuda]

The slide is generated (H&E-like, 0.25 µm/px, square) and its finest scale is its own level 0; ResNet50-FPN with the
published refinement module at 1, 0.5 and 0.25 µm/px, every tissue cell refined. With --device cpu and a small --side it
runs without a GPU, as a check that it works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.made import fpn_bundle
from benchmarks.record import Aim, Measurement, Table, benchmark
from tests.runs import labels_of, local
from tests.slides_made import write_stained_slide
from wsi_magnet.config import Execution, Precision, RunConfig
from wsi_magnet.geometry import Size
from wsi_magnet.inference.cuda import SLOTS, device_of
from wsi_magnet.inference.devices import resolve_device
from wsi_magnet.inference.engine import Engine, PatchInput
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.planning.plan import PatchGeometry, Plan
from wsi_magnet.planning.prepare import prepare
from wsi_magnet.results.events import Event, ScaleFinished, ScaleStarted
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.slides.registry import open_slide

MPPS = (1.0, 0.5, 0.25)
DEMO = Path(__file__).resolve().parents[1] / "demo" / "rings_P1_D5_9_13.tif"
MOST_MINUTES, LEAST_BUSY = 2.0, 85.0


def options(parser: argparse.ArgumentParser) -> None:
    """Options: size of the slide, device, sizes of tiles and batches."""
    parser.add_argument("--side", type=int, default=100_000, help="of the slide, in pixels at 0.25 µm")
    parser.add_argument("--tissue", type=float, default=0.2, help="share of the slide")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, help="processes; default: the program's")
    parser.add_argument("--tile", type=int, default=2048, help="side of a tile")
    parser.add_argument("--batch-size", type=int, help="patches at a time; default: the program's")
    parser.add_argument("--batches", type=int, default=20, help="for the networks alone")


def measure(arguments: argparse.Namespace) -> Measurement:
    """Measure networks, slide and precision; one row for each figure."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        slide = folder / "slide.tif"
        write_stained_slide(slide, Size(arguments.side, arguments.side), tissue_share=arguments.tissue)
        bundle = fpn_bundle(folder, MPPS)
        config = RunConfig(refine="all", tile_px=arguments.tile, batch_size=arguments.batch_size)
        rows = [network_row(slide, bundle, config, precision, arguments) for precision in _precisions(arguments)]
        run = whole_run(slide, bundle, folder / "out", config, Execution(arguments.device, arguments.workers))
        rows += [*run.rows(alone_s(slide, bundle, config, arguments))]
        rows += list(precision_rows(folder, arguments.device))
    full = arguments.side >= 100_000 and arguments.device.startswith("cuda")
    aims = [Aim("minutes for the slide", run.seconds / 60, MOST_MINUTES)] if full else []
    aims += [Aim("GPU busy during the scales, %", run.busy, LEAST_BUSY, "at least")] if run.samples else []
    slide_note = f"The slide: {arguments.side:,} pixels square at 0.25 µm, {arguments.tissue:.0%} of it tissue."
    notes = [
        f"Device: {_name(arguments.device)}; torch {torch.__version__}.",
        slide_note,
        "Labels: the demo slide with the shipped bundle, against float32 on the processor.",
        *map(_scale_note, run.scales),
    ]
    return Measurement(Table(("what", "value", "unit"), rows), aims, notes)


def _precisions(arguments: argparse.Namespace) -> tuple[Precision, ...]:
    return ("fp32", "bf16", "fp16") if arguments.device.startswith("cuda") else ("fp32",)


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "processor"


# ---- the networks alone --------------------------------------------------------------------------------------------


def network_row(
    slide: Path, bundle: Path, config: RunConfig, precision: Precision, arguments: argparse.Namespace
) -> list[str]:
    """Patches of the finest scale in a second, in full batches one after the other."""
    engine, plan = _engine(slide, bundle, replace(config, precision=precision), arguments.device)
    rate = patches_per_second(engine, plan.layouts[-1].geometry, arguments.batches)
    return [f"network and refiner alone, {precision}, batches of {engine.batch_size}", f"{rate:.1f}", "patches/s"]


def alone_s(slide: Path, bundle: Path, config: RunConfig, arguments: argparse.Namespace) -> float:
    """Seconds that the networks alone take for all patches of the plan."""
    engine, plan = _engine(slide, bundle, config, arguments.device)
    return sum(
        float(one.tissue.sum()) / patches_per_second(engine, one.layout.geometry, arguments.batches)
        for one in plan.scales
    )


def _engine(slide: Path, bundle: Path, config: RunConfig, device: str) -> tuple[Engine, Plan]:
    loaded = load_bundle(bundle)
    with closing(open_slide(slide)) as reader:
        plan = prepare(reader, loaded.spec, config).plan
    return Engine(loaded, resolve_device(device), precision=config.precision, batch_size=config.batch_size), plan


def patches_per_second(engine: Engine, geometry: PatchGeometry, batches: int) -> float:
    """Speed of the device with full batches that are sent as in a run, but always the same ones."""
    device, rng = device_of(engine), np.random.default_rng(0)
    n, patch, work = engine.batch_size, geometry.patch_px, geometry.cell_px + 2 * engine.margin_px(geometry)
    pixels = rng.integers(0, 256, (patch, patch, 3), dtype=np.uint8)
    maps = rng.integers(1, 256, (engine.classes, work // 2 + 2, work // 2 + 2), dtype=np.uint8)
    images, coarse = engine.batch_of([PatchInput(pixels, maps if geometry.index else None)] * n)
    for _ in range(SLOTS):
        device.launch(images, coarse, geometry).results()
    started = time.perf_counter()
    launched = [device.launch(images, coarse, geometry) for _ in range(batches)]
    launched[-1].results()
    return batches * n / (time.perf_counter() - started)


# ---- a whole slide -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Run:
    """Measurements of one run."""

    seconds: float = 0.0
    scales: list[tuple[float, int, float]] = field(default_factory=list)
    """(mpp, patches, seconds) of each scale."""
    samples: list[tuple[float, float]] = field(default_factory=list)
    """(Utilisation in percent, memory in MiB), sampled during the scales."""
    worker_s: dict[str, float] = field(default_factory=dict)

    @property
    def busy(self) -> float:
        """Mean utilisation in percent."""
        return float(np.mean([s[0] for s in self.samples])) if self.samples else 0.0

    def rows(self, alone: float) -> Iterator[list[str]]:
        """Rows of the table."""
        in_scales = sum(s for _, _, s in self.scales)
        patches = sum(n for _, n, _ in self.scales)
        yield ["whole run", f"{self.seconds:.1f}", "s"]
        yield ["of it scales", f"{in_scales:.1f}", "s"]
        yield ["patches", str(patches), ""]
        yield ["networks alone for as many patches", f"{alone:.1f}", "s"]
        yield ["scales / networks alone", f"{in_scales / alone:.2f}", ""]
        if self.samples:
            yield ["GPU busy during the scales", f"{self.busy:.0f}", "%"]
            yield ["GPU memory, most", f"{max(s[1] for s in self.samples):.0f}", "MiB"]
        for name, seconds in self.worker_s.items():
            yield [f"tiles' time in {name}, all threads", f"{seconds:.1f}", "s"]


def whole_run(slide: Path, bundle: Path, out: Path, config: RunConfig, execution: Execution) -> Run:
    """Segment the slide and measure it."""
    run, started = Run(), time.perf_counter()
    patches: list[int] = []
    working = threading.Event()

    def observe(event: Event) -> None:
        if isinstance(event, ScaleStarted):
            patches.append(event.refined_cells)
            working.set()
        if isinstance(event, ScaleFinished):
            run.scales.append((event.mpp, patches[-1], event.seconds))

    with sampled(execution.device, working, run.samples):
        summary = segment_slide(slide, out, bundle=bundle, config=config, execution=execution, observe=observe)
        working.clear()
    run.seconds = time.perf_counter() - started
    for line in local(summary.folder / "journal.jsonl").read_text().splitlines():
        for name, seconds in json.loads(line).get("s", {}).items():
            run.worker_s[name] = run.worker_s.get(name, 0.0) + seconds
    return run


@contextmanager
def sampled(device: str, working: threading.Event, samples: list[tuple[float, float]]) -> Iterator[None]:
    """Collect utilisation and memory from nvidia-smi ten times a second while `working` is set."""
    if not device.startswith("cuda"):
        yield
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "100"]
    process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)

    def collect() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if working.is_set():
                busy, memory = (float(value) for value in line.split(",")[:2])
                samples.append((busy, memory))

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    try:
        yield
    finally:
        process.terminate()
        reader.join(5)


def _scale_note(one: tuple[float, int, float]) -> str:
    mpp, patches, seconds = one
    return f"{mpp:g} µm/px: {patches} patches in {seconds:.1f} s."


# ---- labels that precision changes ---------------------------------------------------------------------------------


def precision_rows(folder: Path, device: str) -> Iterator[list[str]]:
    """Share of the demo slide's labels, with the shipped bundle, that differ from float32 on the CPU."""
    exact = _labels(folder / "exact", "cpu", "fp32")
    for precision in ("fp32", "bf16", "fp16") if device.startswith("cuda") else ("fp32", "bf16"):
        found = _labels(folder / precision, device, precision)
        share = float((found != exact)[exact > 0].mean())
        yield [f"labels of tissue that differ, {precision}", f"{100 * share:.4f}", "%"]


def _labels(out: Path, device: str, precision: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    config = RunConfig(mpp=0.93, precision=precision)  # type: ignore[arg-type]
    return labels_of(segment_slide(DEMO, out, config=config, execution=Execution(device=device)).folder)


if __name__ == "__main__":
    benchmark("gpu", "On a GPU", measure, options)
