"""Methods as rows of the table: each makes a result folder from a slide, as `wsi-magnet run --method NAME` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from wsi_magnet.config import MAGNET, MAGNET_FAST, Execution, Refine, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.methods.registry import method_names, refining_methods
from wsi_magnet.segment.slide import segment_slide


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a method for one slide."""

    config: RunConfig
    """Resolution, tissue, and kept probabilities; the row itself sets `method` and `refine`."""
    execution: Execution
    """Device and workers."""


@runtime_checkable
class Row(Protocol):
    """A way to segment a slide; a value that can be pickled."""

    @property
    def name(self) -> str:
        """Name in the table."""
        ...

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Segment the slide and return the finished result folder in `out`. Timed."""
        ...


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A run with a method."""

    name: str = MAGNET
    """Name in the table."""
    method: str = MAGNET
    """Method of the run."""
    refine: Refine = "all"
    """Cells that are refined, as in a run; with a fraction MagNet is MagNet-Fast."""

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Run it, even over a finished result: a skipped run cannot be timed."""
        config = replace(settings.config, method=self.method, refine=self.refine)
        folder = segment_slide(
            slide, out, bundle=bundle, config=config, execution=settings.execution, existing="restart"
        ).folder
        assert isinstance(folder, Path)
        return folder


def all_rows(fast: float) -> tuple[MethodRow, ...]:
    """A row for every method, in the poster's order; `fast` is the share of cells that MagNet-Fast refines."""
    return tuple(MethodRow(name, name, fast if name == MAGNET_FAST else "all") for name in method_names())


def choose(rows: Sequence[MethodRow], names: Sequence[str], fitted: Sequence[str] = ()) -> tuple[MethodRow, ...]:
    """Rows with these names, ignoring case, in the table's order; "all" is every row.

    Without names: the methods that need nothing but a bundle's networks, and those in `fitted`, for which the bundles
    were trained. Raises ConfigError for an unknown name.
    """
    wanted = {name.strip().lower() for name in names}
    if "all" in wanted:
        return tuple(rows)
    unknown = wanted - {row.name.lower() for row in rows}
    if unknown:
        known = ", ".join(row.name for row in rows)
        raise ConfigError(f"--methods: unknown method {sorted(unknown)[0]!r}; available are {known}, and all")
    left_out = set(refining_methods()) - set(fitted)
    return tuple(row for row in rows if (row.name.lower() in wanted if wanted else row.name not in left_out))
