"""Runs for tests: a generated slide with a free network, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import zarr

from wsi_magnet.config import RunConfig
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.registry import build_network, build_refiner
from wsi_magnet.nets.spec import BundleSpec, ClassInfo
from wsi_magnet.results.summary import RunSummary
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.storage.location import Location


@dataclass(frozen=True, slots=True)
class MadeRun:
    """A slide and a bundle to run on it."""

    slide: Path
    bundle: Path


class LocalSummary(RunSummary):
    """How a run into a folder of this machine ended."""

    folder: Path


def run_serially(made: MadeRun, out: Path, config: RunConfig | None = None, **options: Any) -> LocalSummary:
    """In this thread, tile after tile: what every other way of running is held against."""
    config = config or RunConfig(tile_px=512)
    done = segment_slide(made.slide, out, bundle=made.bundle, config=config, execution=SerialExecutor(), **options)
    return cast(LocalSummary, done)


def local(path: Location) -> Path:
    """A place of which the test knows that it is on this machine."""
    assert isinstance(path, Path)
    return path


def labels_of(folder: Location, level: int = 0, product: str = "mask") -> np.ndarray[Any, np.dtype[np.uint8]]:
    """All pixels of a level, read by zarr alone."""
    path = folder / f"{product}.ome.zarr" / str(level)
    return np.asarray(zarr.open_array(path if isinstance(path, Path) else str(path), mode="r")[...])


def free_spec(**changes: Any) -> BundleSpec:
    """A bundle that costs nothing to compute: the label is the strongest colour, after a normalisation that makes the
    three about equally frequent in H&E. Its thresholds let `--refine auto`, the default, refine every cell.
    """
    values: dict[str, Any] = {
        "name": "free",
        "network": "identity",
        "refiner": "identity",
        "classes": (
            ClassInfo("red", 1, (220, 60, 60)),
            ClassInfo("green", 2, (60, 180, 60)),
            ClassInfo("blue", 3, (60, 60, 220)),
        ),
        "mpps": (2.0, 1.0, 0.5),
        "refiner_of": (0, 0),
        "mean": (0.72, 0.55, 0.72),
        "std": (0.1, 0.1, 0.1),
        "select_above": (0.05, 0.05),
        "refine_above": (0.0, 0.0),
        "temperature": (1.0, 1.0, 1.0),
    }
    return BundleSpec(**{**values, **changes})


def write_bundle(path: Path, spec: BundleSpec) -> Path:
    """A bundle with freshly made, seeded networks."""
    torch.manual_seed(0)
    n = len(spec.classes)
    refiners = [build_refiner(spec.refiner, n) for _ in range(spec.n_refiners)]
    save_bundle(path, spec, build_network(spec.network, n, **spec.network_args), refiners)
    return path
