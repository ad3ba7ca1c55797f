"""Result folders with any mask, as a run would leave them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_magnet.config import CHUNK_PX, Ngff, RunConfig
from wsi_magnet.geometry import Box, Size, halved_until
from wsi_magnet.labels import LabelClass
from wsi_magnet.results import ngff
from wsi_magnet.results.folder import Products, ResultFolder
from wsi_magnet.results.pyramid import Pyramid, halve_tile
from wsi_magnet.results.reader import Result
from wsi_magnet.results.record import BundleRecord, RunRecord, ScaleRecord, SlideRecord, State

Pixels = npt.NDArray[np.uint8]

CLASSES = (
    LabelClass(1, "stroma", (150, 200, 150)),
    LabelClass(2, "benign epithelium", (100, 150, 220)),
    LabelClass(3, "Gleason 3", (255, 220, 60)),
    LabelClass(4, "Gleason 4", (255, 120, 0)),
)


@dataclass(frozen=True, slots=True)
class Made:
    """How a made result differs from the plainest one."""

    mpp: float = 1.0
    slide_mpp: float = 0.5
    bounds_xy: tuple[int, int] = (0, 0)
    beyond: int = 0
    """Level-0 pixels of the slide right of and below its bounds."""
    state: State = "finished"
    first_level: int = 0
    """Finest level of the mask that is complete."""
    ngff: Ngff = "0.4"
    classes: tuple[LabelClass, ...] = CLASSES


def make_result(
    folder: Path,
    mask: Pixels,
    made: Made | None = None,
    *,
    probabilities: Pixels | None = None,
    uncertainty: Pixels | None = None,
) -> Result:
    """Write uint8 (h, w) labels, and (classes, h, w) and (h, w) of what else a run keeps, as a result of slide.svs."""
    made = made or Made()
    sizes = halved_until([Size(mask.shape[1], mask.shape[0])], CHUNK_PX)
    config = RunConfig(
        ngff=made.ngff,
        tile_px=512,
        keep_probabilities=probabilities is not None,
        keep_uncertainty=uncertainty is not None,
    )
    products = Products(sizes, len(made.classes), made.ngff, 512, True, uncertainty is not None)
    images = {"mask": mask, "probabilities": probabilities, "uncertainty": uncertainty}
    frames = [
        ngff.level_frame(str(level), made.mpp * 2**level, (made.slide_mpp,) * 2, made.bounds_xy)
        for level in range(made.first_level, len(sizes))
    ]
    for name, pyramid in products.pyramids(folder).items():
        pixels = images[name]
        if pixels is None:
            continue
        pyramid.remove()
        pyramid.create()
        write_all(pyramid, pixels, labels=name == "mask")
        scales = ngff.multiscales(name, frames, channels=name == "probabilities", method="made", version=made.ngff)
        pyramid.describe(ngff.attributes(made.ngff, {"multiscales": [scales]}, {}))
    ResultFolder(folder).write_run(_record(made, sizes[0], config))
    return Result(folder)


def make_sparse_result(folder: Path, side: int, patches: Iterable[tuple[int, int, Pixels]]) -> None:
    """A square mask of 0.5 µm/px with labels at (x, y), row after row from the top; only where they lie is anything
    written, and of coarser levels nothing.
    """
    made = Made(mpp=0.5)
    sizes = halved_until([Size(side, side)], CHUNK_PX)
    config = RunConfig(tile_px=512)
    pyramid = Products(sizes, len(CLASSES), "0.4", 512, True, False).pyramids(folder)["mask"]
    pyramid.create()
    waiting: dict[tuple[int, int], Pixels] = {}
    for x, y, labels in patches:
        # What lies above this patch's first row is complete, up to a patch's height of scatter.
        for key in [key for key in waiting if (key[0] + 1) * CHUNK_PX + 2 * len(labels) < y]:
            _write_cell(pyramid, key, waiting.pop(key))
        for row in range(y // CHUNK_PX, (y + labels.shape[0] - 1) // CHUNK_PX + 1):
            for col in range(x // CHUNK_PX, (x + labels.shape[1] - 1) // CHUNK_PX + 1):
                cell = Box(col * CHUNK_PX, row * CHUNK_PX, (col + 1) * CHUNK_PX, (row + 1) * CHUNK_PX)
                part = cell.intersect(Box(x, y, x + labels.shape[1], y + labels.shape[0]))
                pixels = waiting.setdefault((row, col), np.zeros((CHUNK_PX, CHUNK_PX), np.uint8))
                pixels[part.relative_to(cell).slices_yx] |= labels[part.shift(-x, -y).slices_yx]
    for key, pixels in waiting.items():
        _write_cell(pyramid, key, pixels)
    frames = [ngff.level_frame(str(i), 0.5 * 2**i, (0.5, 0.5), (0, 0)) for i in range(len(sizes))]
    scales = ngff.multiscales("mask", frames, channels=False, method="made", version="0.4")
    pyramid.describe(ngff.attributes("0.4", {"multiscales": [scales]}, {}))
    ResultFolder(folder).write_run(_record(made, sizes[0], config))


def _write_cell(pyramid: Pyramid, key: tuple[int, int], pixels: Pixels) -> None:
    box = Box(key[1] * CHUNK_PX, key[0] * CHUNK_PX, (key[1] + 1) * CHUNK_PX, (key[0] + 1) * CHUNK_PX)
    inside = box.intersect(Box.of(pyramid.spec.sizes[0]))
    pyramid.write(0, inside, pixels[: inside.size.height, : inside.size.width])


def write_all(pyramid: Pyramid, pixels: Pixels, *, labels: bool) -> None:
    """All levels, the finest as given; cells without anything stay unwritten."""
    for level, size in enumerate(pyramid.spec.sizes):
        for y in range(0, size.height, CHUNK_PX):
            for x in range(0, size.width, CHUNK_PX):
                box = Box(x, y, x + CHUNK_PX, y + CHUNK_PX).intersect(Box.of(size))
                if level:
                    halve_tile(pyramid, level, box, labels=labels)
                elif (cell := pixels[..., *box.slices_yx]).any():
                    pyramid.write(0, box, cell)


def _record(made: Made, size: Size, config: RunConfig) -> RunRecord:
    downsample = made.mpp / made.slide_mpp
    width, height = int(size.width * downsample), int(size.height * downsample)
    x, y = made.bounds_xy
    return RunRecord(
        state=made.state,
        fingerprint={},
        slide=SlideRecord(
            path="slides/slide.svs",
            identity="f" * 64,
            size_wh=(x + width + made.beyond, y + height + made.beyond),
            bounds_xywh=(x, y, width, height),
            mpp_xy=(made.slide_mpp, made.slide_mpp),
        ),
        bundle=BundleRecord("made", "0" * 64, made.classes),
        config=config,
        scales=(ScaleRecord(made.mpp, size.wh),),
        software={"wsi-magnet": "0.0"},
    )


def damage(folder: Path, **changes: Any) -> None:
    """Change run.json behind the program's back."""
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
