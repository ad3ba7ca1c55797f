"""Setting of every drill: a slide, a bundle, and the mask of an undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.runs import free_spec, labels_of, write_bundle
from tests.slides_made import glass, stained, write_pyramid
from wsi_magnet.geometry import Size

ROOT = Path(__file__).resolve().parents[1]
SIZE = Size(4608, 3584)
"""Size at 0.5 µm: 9 x 7 cells at the finest of three scales, about eighty tiles of one cell in all."""

NAP_S = 0.25
"""Seconds by which every tile is slower: the networks cost nothing, and faults must meet tiles at work."""

WORK = ("--tile", "512", "--device", "cpu", "--refine", "all")

Labels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, eq=False)
class Stage:
    """Slide, bundle and expected mask of all drills."""

    folder: Path
    slide: Path
    bundle: Path
    expected: tuple[Labels, ...] = field(default=())
    """The undisturbed mask, level by level."""

    @property
    def undisturbed(self) -> Path:
        """Result folder of the expected mask."""
        return self.folder / "undisturbed" / self.slide.stem


def write_slide(path: Path) -> Path:
    """A section of H&E on glass, every part of it different, in JPEG."""
    picture, bare = stained(SIZE, seed=1), glass(SIZE)
    y, x = np.ogrid[: SIZE.height, : SIZE.width]
    outside = (x / SIZE.width * 2 - 1) ** 2 + (y / SIZE.height * 2 - 1) ** 2 > 0.8
    picture[outside] = bare[outside]
    options: dict[str, Any] = {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 85}}
    return write_pyramid(path, picture, mpp=0.5, factors=(2, 4), **options)


def write_stage(folder: Path) -> Stage:
    """Write slide and bundle."""
    folder.mkdir(parents=True)
    return Stage(folder, write_slide(folder / "slide.tif"), write_bundle(folder / "free.safetensors", free_spec()))


def environment(**changes: str) -> dict[str, str]:
    """Environment of every process of a drill: one thread, the package of this checkout, and slow tiles."""
    paths = [str(ROOT / "drill" / "inject"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    drill = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "WSI_MAGNET_DRILL_NAP_S": str(NAP_S)}
    return {**os.environ, **threads, **drill, **changes}


def program(*arguments: str | Path) -> list[str]:
    """A command line of `wsi-magnet`."""
    return [sys.executable, "-m", "wsi_magnet", *map(str, arguments)]


def masks(result: Path) -> tuple[Labels, ...]:
    """All levels of a result's mask."""
    levels = sorted(int(path.name) for path in (result / "mask.ome.zarr").iterdir() if path.name.isdigit())
    return tuple(labels_of(result, level) for level in levels)


def run_undisturbed(stage: Stage) -> tuple[Labels, ...]:
    """Run without faults in one process, and return the mask."""
    command = program("run", stage.slide, "-o", stage.undisturbed.parent, "--bundle", stage.bundle, *WORK)
    subprocess.run(
        command, env=environment(WSI_MAGNET_DRILL_NAP_S="0"), cwd=ROOT, check=True, capture_output=True, timeout=180
    )
    return masks(stage.undisturbed)
