"""Painted images whose colours are their classes, what is held to be true of them, and results of free bundles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.runs import MadeRun, free_spec, run_serially, write_bundle
from wsi_magnet.annotations.types import Sets, full_set
from wsi_magnet.config import RunConfig
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.evaluate import comparison
from wsi_magnet.evaluate.methods import Row
from wsi_magnet.evaluate.worker import Item, Notify, PeakMemory, Segmented
from wsi_magnet.geometry import Box
from wsi_magnet.nets.spec import BundleSpec, ClassInfo
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.scales import Scale, scale_at
from wsi_magnet.schema import parse
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import SlideReader

MPP = 0.5
COLORS = np.array([(250, 60, 90), (90, 250, 60), (60, 90, 250)], np.uint8)
"""Of classes red, green and blue; the free bundle tells them apart wherever no colours mix."""


def two_scales(**changes: object) -> BundleSpec:
    """The free bundle at 1 and 0.5 microns: its finest scale is that of the painted images."""
    shorter = {"mpps": (1.0, MPP), "refiner_of": (0,), "select_above": (0.05,), "refine_above": (0.4,)}
    return free_spec(**{**shorter, "temperature": (1.0, 1.0), **changes})


def bundle_at(folder: Path, **changes: object) -> Path:
    return write_bundle(folder / "free.safetensors", two_scales(**changes))


def patchwork(seed: int, height: int = 150, width: int = 190) -> npt.NDArray[np.int64]:
    """Classes in squares of odd size, so that coarser pixels mix them."""
    drawn = np.random.default_rng(seed).integers(0, 3, (12, 12))
    return np.kron(drawn, np.ones((17, 17), np.int64))[:height, :width]


def paint(path: Path, classes: npt.NDArray[np.int64]) -> Path:
    Image.fromarray(COLORS[classes]).save(path)
    return path


def label_values(path: Path, classes: npt.NDArray[np.int64]) -> Path:
    """A label image of the free bundle's values 1 to 3; -1 becomes 255, not labelled."""
    Image.fromarray(np.where(classes < 0, 255, classes + 1).astype(np.uint8)).save(path)
    return path


def sample_of(image: Path, row: int = 2, group: str = "a") -> Sample:
    return Sample(row, image, (), MPP, group, "test")


@dataclass(frozen=True, eq=False)
class MadeTruth:
    """Sets given pixel by pixel on level 0, taken at the centres of whatever scale is asked for."""

    reader: SlideReader
    level0: Sets

    def scale(self, mpp: float) -> Scale:
        """The grid of that mpp."""
        return scale_at(mpp, self.reader.info.require_mpp(), self.reader.info.canvas)

    def sets(self, scale: Scale, box: Box) -> Sets:
        """The sets at the pixels' centres."""
        x, y = scale.downsample_xy
        rows = np.minimum(((np.arange(box.y0, box.y1) + 0.5) * y).astype(int), self.level0.shape[0] - 1)
        cols = np.minimum(((np.arange(box.x0, box.x1) + 0.5) * x).astype(int), self.level0.shape[1] - 1)
        return self.level0[np.ix_(rows, cols)]

    def close(self) -> None:
        """Release the image."""
        self.reader.close()


@dataclass(frozen=True)
class MadeOpener:
    """Opens painted images with the classes that are given by their names; -1 is not labelled."""

    truths: dict[str, npt.NDArray[np.int64]]

    def __call__(self, sample: Sample, classes: Sequence[ClassInfo]) -> MadeTruth:
        """Open a row by its image's name."""
        own = self.truths[sample.image.stem]
        sets = np.where(own < 0, full_set(len(classes)), 1 << np.maximum(own, 0)).astype(np.uint32)
        return MadeTruth(open_slide(sample.image, mpp=sample.mpp), sets)


def result_of(image: Path, bundle: Path, out: Path, **config: object) -> Path:
    """A finished result, made in this thread."""
    values = {"mpp": MPP, "tissue": False, "keep_probabilities": True, **config}
    return run_serially(MadeRun(image, bundle), out, parse(RunConfig, values, "config")).folder


def work_here(method: Row, bundle: Path, items: Sequence[Item], notify: Notify) -> tuple[list[Segmented], PeakMemory]:
    """What a worker does, without a process: quick, and its memory is made up."""
    done = []
    for item in items:
        done.append(Segmented(method.segment(item.slide, bundle, item.out, item.settings), 0.5))
        notify(f"{method.name} {item.slide.name}")
    return done, PeakMemory(10**8, None)


def stay_here(patch: pytest.MonkeyPatch) -> None:
    """Let methods work in this process and this thread."""
    patch.setattr(comparison, "segment_isolated", work_here)
    patch.setattr("wsi_magnet.segment.run.start_workers", lambda execution: SerialExecutor())
