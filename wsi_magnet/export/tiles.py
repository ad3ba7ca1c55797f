"""Tiles of tissue with the mean probability of each class, for QuPath's measurement maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_magnet.errors import ConfigError
from wsi_magnet.export.geojson import describe, write_features
from wsi_magnet.export.objects import FULL, ObjectOptions
from wsi_magnet.export.qupath import Naming, class_name, classification, object_id
from wsi_magnet.geometry import Box
from wsi_magnet.results.reader import CoordinateFrame, Result
from wsi_magnet.storage.output import Exported, FileOptions

_PIXELS = 8
"""Smallest number of pixels along a tile's side that are averaged; the coarsest level of the result that has them is
read."""

_TISSUE = 0.25
"""Tiles with a smaller share of tissue are left out."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TileOptions:
    """Size of the tiles, and which of them are exported."""

    side_um: float = 128
    frame: CoordinateFrame = "qupath"
    naming: Naming = "flat"
    identity: str = ""
    """Identity of the result, for the objects' ids."""
    locked: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.side_um <= 1e5:
            raise ConfigError(f"--tile-um must be between 1 and 100000 microns; got {self.side_um:g}")


def write_tiles(source: Result, target: Path, options: TileOptions, files: FileOptions) -> Exported:
    """Write tile objects with a measurement for each class, 0..1, named as the class (like QuPath's own deep learning
    extension), and "uncertainty" if it was kept. The class of a tile is its likeliest one.

    Raises ConfigError where the run did not keep probabilities; otherwise as `write_geojson`.
    """
    if source.probabilities_image is None:
        raise ConfigError(
            f"{source.folder} has no probabilities, which tiles need; "
            "run again with --keep probabilities,uncertainty --restart"
        )
    about = describe(source, ObjectOptions(frame=options.frame))
    return write_features(_features(source, options), target, about, files)


def _features(source: Result, options: TileOptions) -> Iterator[dict[str, Any]]:
    assert source.probabilities_image is not None
    level = max((i for i in source.levels if source.mpp_of(i) * _PIXELS <= options.side_um), default=source.level)
    side = max(1, round(options.side_um / source.mpp_of(level)))
    size = source.mask_image.spec.sizes[level]
    for row in range(0, size.height, rows := max(1, 512 // side) * side):
        box = Box(0, row, size.width, row + rows).intersect(Box.of(size))
        stored = source.probabilities_image.read(level, box)
        doubt = source.uncertainty_image.read(level, box) if source.uncertainty_image is not None else None
        means = _means(stored, side)
        doubts = _means(doubt[None], side)[0] if doubt is not None else None
        for i, j in np.argwhere(means.sum(axis=0) >= _TISSUE).tolist():
            # Pixels without tissue are zero, so the mean over tissue stands for the whole tile.
            tissue = means[:, i, j].sum()
            tile = Box(j * side, row + i * side, (j + 1) * side, row + (i + 1) * side).intersect(Box.of(size))
            measured = {
                class_name(c): round(float(p / tissue), 4) for c, p in zip(source.classes, means[:, i, j], strict=True)
            }
            if doubts is not None:
                measured["uncertainty"] = round(float(doubts[i, j] / tissue), 4)
            yield _feature(source, options, level, tile, measured, int(means[:, i, j].argmax()))


def _means(stored: npt.NDArray[np.uint8], side: int) -> Floats:
    """Means of tiles: uint8 (n, h, w) to float64 (n, rows, columns), 0..1; tiles at the edge have fewer pixels."""
    rows, cols = np.arange(0, stored.shape[1], side), np.arange(0, stored.shape[2], side)
    total = np.add.reduceat(np.add.reduceat(stored, rows, axis=1, dtype=np.float64), cols, axis=2)
    counts = np.outer(np.diff(rows, append=stored.shape[1]), np.diff(cols, append=stored.shape[2]))
    return np.asarray(total / (counts * FULL))


def _feature(
    source: Result, options: TileOptions, level: int, tile: Box, measured: dict[str, float], top: int
) -> dict[str, Any]:
    corners = np.array([(tile.x0, tile.y0), (tile.x1, tile.y1)]) * 2.0 ** (level - source.level)
    (x0, y0), (x1, y1) = np.round(source.geometry.on_slide(corners, options.frame), 2).tolist()
    return {
        "type": "Feature",
        "id": object_id(options.identity, f"{x0} {y0} {options.frame} {options.side_um}"),
        "geometry": {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]},
        "properties": {
            "objectType": "tile",
            "classification": classification(source.classes[top], options.naming),
            **({"isLocked": True} if options.locked else {}),
            "measurements": measured,
        },
    }
