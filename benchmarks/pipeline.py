"""A run against its two lower bounds: decoding what it reads, and the networks' arithmetic.

    python -m benchmarks.pipeline [--slide FILE] [--only free ...]

Measured in one process, one after the other, with as many threads as the run has:

- *scales*: the run itself, from the first tile to the last, its pyramids included;
- *decoding*: OpenSlide's `read_region` of exactly the regions that the run read, in its order, and nothing else;
- *reading*: the same, with everything needed to make patches of the scale (colours, resampling);
- *networks*: the backbone and the refinement module alone, in the run's form and precision, on as many patches of the
  same sizes in memory.

Decoding and networks share the processor's cores, so a run takes at least the larger of the two, and hardly less than
their sum.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from openslide import OpenSlide, OpenSlideCache

from benchmarks.made import fpn_bundle
from benchmarks.record import Aim, Measurement, Table, benchmark
from tests.runs import free_spec, write_bundle
from tests.slides_made import write_gigapixel_slide
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.geometry import Box
from wsi_magnet.inference.devices import one_torch_thread
from wsi_magnet.inference.engine import Engine, PatchInput
from wsi_magnet.inference.tiles import CellPixels
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.planning.plan import PatchGeometry
from wsi_magnet.results.events import Event, ScaleFinished
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.slides.openslide import CACHE_BYTES
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.system import cpu_threads

ARITHMETIC_BOUND, DECODING_BOUND = 1.15, 1.25
SECONDS_ALONE = 6.0
"""Seconds for which the networks of each scale are timed; at least two patches for each thread."""

GENERATED = {"free": 0.15, "shipped": 0.06, "fpn": 0.02}
"""Share of the generated slide that is tissue, so that each takes about a minute."""


@dataclass(eq=False)
class Seen:
    """Measurements of a run."""

    patches: Counter[PatchGeometry] = field(default_factory=Counter)
    boxes: list[tuple[PatchGeometry, Box]] = field(default_factory=list)
    regions: list[tuple[tuple[int, int], int, tuple[int, int]]] = field(default_factory=list)
    """(location, level, size) of `read_region`."""
    scales_s: float = 0.0
    whole_s: float = 0.0


def options(parser: argparse.ArgumentParser) -> None:
    """Options: networks and slides."""
    parser.add_argument("--slide", type=Path, action="append", default=[], help="a real one, besides the generated")
    parser.add_argument("--only", choices=list(GENERATED), nargs="+", default=list(GENERATED), help="which networks")
    parser.add_argument("--gigapixels", type=float, default=1.0, help="of the generated slide")


def measure(arguments: argparse.Namespace) -> Measurement:
    """Measure every network and slide, one row each."""
    rows, aims = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in arguments.only:
            bundle = _bundle(folder, name)
            made = folder / f"generated-{name}.tif"
            write_gigapixel_slide(made, gigapixels=arguments.gigapixels, tissue_share=GENERATED[name])
            for slide in (*arguments.slide, made):
                row = _row(name, slide, bundle, folder / "out" / f"{name}-{slide.stem}")
                rows.append(row.texts())
                bound = DECODING_BOUND if row.decoding_s > row.networks_s else ARITHMETIC_BOUND
                aims.append(Aim(f"{name}, {row.slide}: scales / the larger", row.over_larger, bound))
    columns = ("network", "slide", "patches", "whole run s", "scales s", "decoding s", "reading s", "networks s",
               "scales / larger", "scales / (decoding + networks)")  # fmt: skip
    notes = [f"{cpu_threads()} threads, precision and batch as the program chooses them; torch {torch.__version__}."]
    return Measurement(Table(columns, rows), aims, notes)


def _bundle(folder: Path, name: str) -> Path | None:
    if name == "shipped":
        return None
    return fpn_bundle(folder) if name == "fpn" else write_bundle(folder / "free.safetensors", free_spec())


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    slide: str
    patches: int
    whole_s: float
    scales_s: float
    decoding_s: float
    reading_s: float
    networks_s: float

    @property
    def over_larger(self) -> float:
        return self.scales_s / max(self.decoding_s, self.networks_s)

    def texts(self) -> list[str]:
        times = (self.whole_s, self.scales_s, self.decoding_s, self.reading_s, self.networks_s)
        over_sum = self.scales_s / (self.decoding_s + self.networks_s)
        return [
            self.name,
            self.slide,
            str(self.patches),
            *(f"{one:.1f}" for one in times),
            f"{self.over_larger:.2f}",
            f"{over_sum:.2f}",
        ]


def _row(name: str, slide: Path, bundle: Path | None, out: Path) -> _Row:
    seen = run(slide, bundle, out)
    threads = cpu_threads()
    label = "generated" if slide.stem.startswith("generated") else slide.stem
    times = decoding_s(slide, seen, threads), reading_s(slide, seen, threads), networks_s(bundle, seen, threads)
    return _Row(name, label, sum(seen.patches.values()), seen.whole_s, seen.scales_s, *times)


# ---- the run -------------------------------------------------------------------------------------------------------


def run(slide: Path, bundle: Path | None, out: Path) -> Seen:
    """Segment the slide in threads of this process, and record what it reads and computes."""
    seen = Seen()

    def observe(event: Event) -> None:
        if isinstance(event, ScaleFinished):
            seen.scales_s += event.seconds

    with _watched(seen):
        started = time.perf_counter()
        segment_slide(
            slide,
            out,
            bundle=bundle,
            config=RunConfig(refine="all"),
            execution=Execution(device="cpu"),
            observe=observe,
        )
        seen.whole_s = time.perf_counter() - started
    return seen


@contextmanager
def _watched(seen: Seen) -> Iterator[None]:
    """Record each patch that is read and each that is segmented."""
    read, segment, region = read_scale, Engine.segment, OpenSlide.read_region

    def reading(reader: Any, scale: Any, box: Box) -> Any:
        seen.boxes.append((scale, box))
        return read(reader, scale, box)

    def segmenting(self: Engine, inputs: Sequence[PatchInput], geometry: PatchGeometry) -> Iterator[CellPixels]:
        seen.patches[geometry] += len(inputs)
        return segment(self, inputs, geometry)

    def decoding(self: OpenSlide, location: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
        if seen.boxes:  # what was read before the first patch belongs to the tissue map
            seen.regions.append((location, level, size))
        return region(self, location, level, size)

    with (
        patch("wsi_magnet.worker.tasks.read_scale", reading),
        patch.object(Engine, "segment", segmenting),
        patch.object(OpenSlide, "read_region", decoding),
    ):
        yield


# ---- the lower bounds ----------------------------------------------------------------------------------------------


def decoding_s(slide: Path, seen: Seen, threads: int) -> float:
    """Seconds of OpenSlide alone, with one handle for all threads and the program's cache."""
    handle = OpenSlide(slide)
    handle.set_cache(OpenSlideCache(CACHE_BYTES))
    return _side_by_side([partial(handle.read_region, *region) for region in seen.regions], threads)


def reading_s(slide: Path, seen: Seen, threads: int) -> float:
    """Seconds of reading patches of their scales, as the run does."""
    with closing(open_slide(slide)) as reader:
        return _side_by_side([partial(read_scale, reader, scale, box) for scale, box in seen.boxes], threads)  # type: ignore[arg-type]


def networks_s(bundle: Path | None, seen: Seen, threads: int) -> float:
    """Seconds of backbone and refinement module alone, for all patches of the run."""
    engine = Engine(load_bundle(bundle), torch.device("cpu"))
    return sum(count * seconds_a_patch(engine, geometry, threads) for geometry, count in seen.patches.items())


def seconds_a_patch(engine: Engine, geometry: PatchGeometry, threads: int) -> float:
    """Seconds of one patch, with all threads computing."""
    forward = partial(_forward, engine, geometry)
    _side_by_side([forward] * threads, threads)
    once = _side_by_side([forward] * threads, threads)
    rounds = max(2, min(200, round(SECONDS_ALONE / once)))
    return _side_by_side([forward] * threads * rounds, threads) / (threads * rounds)


def _forward(engine: Engine, geometry: PatchGeometry) -> None:
    image = torch.rand(1, geometry.patch_px, geometry.patch_px, 3).permute(0, 3, 1, 2)
    side = geometry.cell_px + 2 * engine.margin_px(geometry)
    maps = torch.rand(1, engine.classes, side, side)
    with torch.inference_mode(), one_torch_thread():
        engine.networks(image, maps if geometry.index else None, geometry)


def _side_by_side(work: Sequence[Callable[[], object]], threads: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda one: one(), work):
            pass
    return time.perf_counter() - started


if __name__ == "__main__":
    benchmark("pipeline", "A run against decoding and arithmetic", measure, options)
