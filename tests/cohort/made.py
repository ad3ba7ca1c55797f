"""Small cohorts: slides of a few cells, and batches of them without workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.runs import free_spec, write_bundle
from tests.slides_made import stained, write_pyramid
from wsi_magnet.cohort.batch import CohortSummary, segment_cohort
from wsi_magnet.cohort.discovery import find_slides
from wsi_magnet.cohort.events import CohortEvent
from wsi_magnet.cohort.options import CohortOptions
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
    values = {"mpps": (1.0, 0.5), "refiner_of": (0,), "select_above": (0.05,), "refine_above": (0.0,)}
    return write_bundle(folder / "free.safetensors", free_spec(**values, temperature=(1.0, 1.0), **changes))


@dataclass
class Batches:
    """Batches of one folder of slides into one output."""

    slides: Path
    out: Location
    bundle: Path
    events: list[CohortEvent] = field(default_factory=list)
    """Events of the last one."""
    observer: Callable[[CohortEvent], None] | None = None
    """Another observer, which may raise."""
    executor: Executor = field(default_factory=SerialExecutor)

    @property
    def folder(self) -> Path:
        """The output, on this machine."""
        assert isinstance(self.out, Path)
        return self.out

    def run(self, *sources: str, config: RunConfig | None = None, **options: Any) -> CohortSummary:
        """A batch of all slides, or of some sources below the folder, in this process."""
        self.events.clear()
        chosen = CohortOptions(self.out, config or RunConfig(tile_px=512), str(self.bundle), **options)
        found = find_slides([str(self.slides / source) for source in sources or ("",)], self.out)

        def observe(event: CohortEvent) -> None:
            self.events.append(event)
            if self.observer is not None:
                self.observer(event)

        return segment_cohort(
            found.slides, chosen, command=chosen.command(sources), executor=self.executor, observe=observe
        )

    def of_kind(self, kind: type) -> list[Any]:
        """The events of a kind in the last batch."""
        return [event for event in self.events if isinstance(event, kind)]
