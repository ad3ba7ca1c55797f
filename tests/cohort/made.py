"""Small cohorts: slides that take a moment each, and ways to run them without any workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.runs import free_spec, write_bundle
from tests.slides_made import stained, write_pyramid
from wsi_magnet.cohort.batch import CohortSummary, segment_cohort
from wsi_magnet.cohort.events import CohortEvent
from wsi_magnet.cohort.options import CohortOptions
from wsi_magnet.cohort.sources import find_slides
from wsi_magnet.config import RunConfig
from wsi_magnet.geometry import Size
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.runtime.types import Executor
from wsi_magnet.storage.location import Location

SIZE = Size(700, 560)
"""A cell at 1 µm and four at 0.5 µm."""


def write_slide(path: Path, seed: int = 0) -> Path:
    """A small slide, with tissue everywhere and its mpp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_pyramid(path, stained(SIZE, seed), mpp=0.5)


def write_free_bundle(folder: Path, **changes: Any) -> Path:
    """Networks that cost nothing, at 1 and 0.5 µm."""
    values = {"mpps": (1.0, 0.5), "refiner_of": (0,), "select_above": (0.05,), "refine_above": (0.4,)}
    return write_bundle(folder / "free.safetensors", free_spec(**values, temperature=(1.0, 1.0), **changes))


@dataclass
class Batches:
    """Batches of one folder of slides into one output."""

    slides: Path
    out: Location
    bundle: Path
    heard: list[CohortEvent] = field(default_factory=list)
    """By the last one."""
    hear: Callable[[CohortEvent], None] | None = None
    """Is told as well, and may raise."""
    executor: Executor = field(default_factory=SerialExecutor)

    @property
    def folder(self) -> Path:
        """The output, on this machine."""
        assert isinstance(self.out, Path)
        return self.out

    def run(self, *sources: str, config: RunConfig | None = None, **options: Any) -> CohortSummary:
        """A batch of all slides, or of some sources below the folder, in this process."""
        self.heard.clear()
        asked = CohortOptions(self.out, config or RunConfig(tile_px=512), str(self.bundle), **options)
        found = find_slides([str(self.slides / source) for source in sources or ("",)], self.out)

        def observe(event: CohortEvent) -> None:
            self.heard.append(event)
            if self.hear is not None:
                self.hear(event)

        return segment_cohort(
            found.jobs, asked, command=asked.command(sources), executor=self.executor, observe=observe
        )

    def told(self, kind: type) -> list[Any]:
        """The events of a kind that the last batch told."""
        return [event for event in self.heard if isinstance(event, kind)]
