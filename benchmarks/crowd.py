"""Load that the coordinating process and Dask's scheduler can handle, with 200 workers that only wait.

    python -m benchmarks.crowd [--workers 200] [--gigapixels 4] [--tile 1024 2048] [--slides 1 4]

The workers are Dask's own, with one thread each, a few dozen in a process. Everything else is real: the plan of a
generated slide, the run with its journal, folder and summary, the scheduler in its own process. Only the computation of
a tile is replaced by a wait: as long as a worker's thread takes for it on a GPU (docs/performance/gpu.json), and for
the coarser levels as long as docs/performance/everyday.json states.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import psutil

from benchmarks.crowd_host import PROCESSES, Crowd, gathered
from benchmarks.record import Aim, Measurement, Table, benchmark
from benchmarks.simulated import (
    SimulatedHalve,
    SimulatedTile,
    Stand,
    coarser,
    gpu_patch_s,
    halving_pixel_s,
    least_s,
)
from wsi_magnet.config import Execution
from wsi_magnet.results.events import Event, ScaleFinished, ScaleStarted
from wsi_magnet.results.journal import Journal, TileResult, read_history
from wsi_magnet.runtime.types import Executor
from wsi_magnet.segment.executors import start_workers
from wsi_magnet.segment.slide import segment_slide

LEAST_EFFICIENCY, MOST_GROWTH = 0.9, 1.1
SAMPLE_S = 0.2


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes of the simulation."""
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--gigapixels", type=float, default=4.0, help="of each slide")
    parser.add_argument("--tile", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--slides", type=int, nargs="+", default=[1, 4], help="in flight at once")
    parser.add_argument("--patch-seconds", type=float, default=gpu_patch_s(), help="time of a tile for each patch")


def measure_all(options: argparse.Namespace) -> Measurement:
    """Measure each tile size and number of slides, then tiles that take no time; one row each."""
    waits = [(options.patch_seconds, tile, slides) for tile in options.tile for slides in options.slides]
    limits = [(0.0, options.tile[0], slides) for slides in options.slides]
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        crowd = stack.enter_context(gathered(options.workers))
        executor = start_workers(Execution(device="cpu", scheduler=crowd.address))
        stack.callback(executor.close)
        rounds = [
            Round(Path(temporary) / str(i), options, crowd, *what).play(executor)
            for i, what in enumerate([*waits, *limits])
        ]
    full = [one for one in rounds if one.patch_s]
    aims = [Aim(f"efficiency, {one.what}", one.efficiency, LEAST_EFFICIENCY, "at least") for one in full]
    aims += [Aim(f"client's memory at the end by the start's, {one.what}", one.growth, MOST_GROWTH) for one in full]
    columns = ["what", "tiles", "ideal s", "least s", "measured s", "efficiency", "tasks/s"]
    columns += ["client CPU %", "scheduler CPU %", "workers CPU %", "client MB, start", "middle", "end"]
    return Measurement(Table(columns, [one.cells() for one in rounds]), aims, notes(options, rounds))


def notes(options: argparse.Namespace, rounds: Sequence[Round]) -> list[str]:
    """Explanations of the figures."""
    free = [one for one in rounds if not one.patch_s]
    alone = max(one.tasks / one.client_s for one in free)
    journalled = max(one.tiles / one.journal_s for one in rounds)
    return [
        f"{options.workers} workers of a thread in {PROCESSES} processes; slides of {options.gigapixels:g} gigapixels "
        f"nearly full of tissue, at 1, 0.5 and 0.25 µm/px. A tile takes {options.patch_seconds:.3f} s for each of its "
        "patches: what the recorded run on a GPU took by its patches, all threads together, reading and writing "
        "included. *Ideal* is the work by the number of workers. *Least* is what the plan allows: with one slide "
        "workers idle where a scale has fewer tiles than there are workers or its last ones are under way, since a "
        "scale begins when the one before it is complete; tiles of other slides fill that up. *Measured* is from the "
        "beginning of the first scale to the end of the last, *efficiency* is least by measured. *Tasks* are tiles and "
        "those of the coarser levels.",
        f"Where tiles take no time it is seen what limits: a task costs the client {1000 / alone:.2f} ms of processor "
        f"time, so that with a core of its own it keeps up with at most {alone:.0f} a second. Each tile of a slide is "
        f"written into its journal before the next one is looked at: at most {journalled:.0f} a second for a "
        "slide on this disk. Here client, scheduler and all workers share the machine's cores.",
    ]


# ---- a round -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Round:
    """One measurement: some slides, with one tile size."""

    folder: Path
    options: argparse.Namespace
    crowd: Crowd
    patch_s: float
    tile_px: int
    slides: int
    seconds: float = 0.0
    """Time from the start of the first scale to the end of the last one."""
    ideal_s: float = 0.0
    """Total work divided by the number of workers."""
    least_s: float = 0.0
    """Shortest time that the slides' plans allow, without any time between tasks."""
    tiles: int = 0
    tasks: int = 0
    client_s: float = 0.0
    scheduler_s: float = 0.0
    workers_s: float = 0.0
    journal_s: float = 0.0
    """Time in the journal, summed over all slides' threads."""
    memory: list[int] = field(default_factory=list)
    """Memory of the client in bytes, sampled from the start of the first scale."""
    _working: threading.Event = field(default_factory=threading.Event)

    def play(self, executor: Executor) -> Round:
        """Segment the slides, each in its own thread."""
        stand = Stand.made(self.folder, gigapixels=self.options.gigapixels, tile_px=self.tile_px)
        spans: list[tuple[float, float]] = []
        with self._watched(), self._replaced(), ThreadPoolExecutor(self.slides) as pool:
            for span in pool.map(partial(self._one, stand, executor), range(self.slides)):
                spans.append(span)
        self.seconds = max(end for _, end in spans) - min(begin for begin, _ in spans)
        patches = sum(int(one.tissue.sum()) for one in stand.plan.scales)
        self.tasks = self.tiles + self.slides * sum(sum(coarser(one, stand.plan)) for one in stand.plan.scales)
        self.ideal_s = self.slides * patches * self.patch_s / self.crowd.workers
        self.least_s = max(self.ideal_s, least_s(stand.plan, self.patch_s, self.crowd.workers))
        return self

    def _one(self, stand: Stand, executor: Executor, number: int) -> tuple[float, float]:
        times: list[float] = []

        def observe(event: Event) -> None:
            if isinstance(event, ScaleStarted | ScaleFinished):
                self._working.set()
                times.append(time.perf_counter())

        out, config = self.folder / f"out{number}", stand.function.run.config
        summary = segment_slide(
            stand.slide, out, bundle=stand.bundle, config=config, execution=executor, observe=observe
        )
        done = len(read_history(summary.folder / "journal.jsonl").tiles)
        wanted = sum(int(one.tiles.sum()) for one in stand.plan.scales)
        assert done == wanted, f"{done} tiles of {wanted} are in the journal"
        self.tiles += done
        return times[0], times[-1]

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        written = Journal.tile

        def timed(journal: Journal, result: TileResult) -> None:
            begun = time.perf_counter()
            written(journal, result)
            self.journal_s += time.perf_counter() - begun

        halve = partial(SimulatedHalve, pixel_s=halving_pixel_s() if self.patch_s else 0.0)
        with (
            patch("wsi_magnet.segment.run.RunTile", partial(SimulatedTile, patch_s=self.patch_s)),
            patch("wsi_magnet.segment.run.RunHalve", halve),
            patch.object(Journal, "tile", timed),
        ):
            yield

    @contextmanager
    def _watched(self) -> Iterator[None]:
        over, own = threading.Event(), psutil.Process()

        def sample() -> None:
            self._working.wait()
            while not over.wait(SAMPLE_S):
                self.memory.append(own.memory_info().rss)

        watcher = threading.Thread(target=sample, daemon=True)
        processes = [own, self.crowd.scheduler, *self.crowd.hosts]
        before = [_cpu_s(process) for process in processes]
        watcher.start()
        yield
        over.set()
        watcher.join()
        used = [_cpu_s(process) - begun for process, begun in zip(processes, before, strict=True)]
        self.client_s, self.scheduler_s, self.workers_s = used[0], used[1], sum(used[2:])

    @property
    def what(self) -> str:
        """Name of the row."""
        slides = "1 slide" if self.slides == 1 else f"{self.slides} slides at once"
        waits = "" if self.patch_s else ", tiles that take no time"
        return f"{slides}, tiles of {self.tile_px} px{waits}"

    @property
    def efficiency(self) -> float:
        """Shortest possible time divided by the measured time."""
        return self.least_s / self.seconds

    @property
    def growth(self) -> float:
        """Memory of the client at the end, divided by that at the start."""
        return self.memory[-1] / self.memory[0]

    def cells(self) -> list[str]:
        """Columns of the table."""
        memory = [self.memory[i] / 1e6 for i in (0, len(self.memory) // 2, -1)]
        shares = [100 * s / self.seconds for s in (self.client_s, self.scheduler_s, self.workers_s)]
        times = [f"{self.ideal_s:.1f}", f"{self.least_s:.1f}"] if self.patch_s else ["", ""]
        return [
            self.what,
            str(self.tiles),
            *times,
            f"{self.seconds:.1f}",
            f"{self.efficiency:.2f}" if self.patch_s else "",
            f"{self.tasks / self.seconds:.0f}",
            *(f"{share:.0f}" for share in shares),
            *(f"{one:.0f}" for one in memory),
        ]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    benchmark("crowd", "A crowd of workers", measure_all, add_options)
