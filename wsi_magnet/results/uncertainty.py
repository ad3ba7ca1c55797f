"""Uncertainty image of a finished result that has kept its probabilities, made from these alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_magnet.geometry import Box, ceil_div
from wsi_magnet.planning.plan import grid_box, pool_any
from wsi_magnet.results import ngff
from wsi_magnet.results.folder import KEEP, ResultFolder
from wsi_magnet.results.ome_xml import image_of, ome_xml
from wsi_magnet.results.pyramid import Pixels, Pyramid, count_chunks, halve_tile, read_attributes
from wsi_magnet.results.record import RunRecord
from wsi_magnet.results.relabel import images_of

Tiles = npt.NDArray[np.bool_]


def add_uncertainty(folder: ResultFolder, record: RunRecord) -> None:
    """Write the uncertainty of a finished result from its stored probabilities: the bytes that the run would have kept.

    record: of a finished run that kept probabilities. The caller holds the folder's lock. run.json is replaced last, so
    that the same call completes one that was killed. Raises StoreError.
    """
    config = replace(record.config, keep_uncertainty=True)
    described = record.but(config=config, fingerprint={**record.fingerprint, KEEP: ",".join(config.kept)})
    images = images_of(described, folder.path)
    probabilities, uncertainty = images["probabilities"], images["uncertainty"]
    uncertainty.remove()
    uncertainty.create()
    tiles = _write_finest(probabilities, uncertainty)
    for level in range(1, len(uncertainty.spec.sizes)):
        tiles = _write_coarser(uncertainty, level, tiles)
    _describe(uncertainty, described, images["mask"])
    chunks = {**record.chunks, "uncertainty": count_chunks(uncertainty.spec.path)}
    folder.write_run(described.but(chunks={name: count for name, count in chunks.items() if count}))


def margin_uncertainty(stored: Pixels) -> Pixels:
    """Uncertainty of stored probabilities, uint8 (C, H, W) to uint8 (H, W): 255 - (largest - second).

    0 where nothing is stored, which is where the networks have not looked.
    """
    if stored.shape[0] == 1:
        first, second = stored[0], np.zeros_like(stored[0])
    else:
        second, first = np.sort(stored, axis=0)[-2:]
    return np.where(stored.any(axis=0), 255 - (first - second), 0).astype(np.uint8)


def _write_finest(probabilities: Pyramid, uncertainty: Pyramid) -> Tiles:
    """Write level 0; returns the tiles that hold something, bool (rows, columns)."""
    side, size = uncertainty.spec.tile_px, uncertainty.spec.sizes[0]
    tiles = np.zeros((ceil_div(size.height, side), ceil_div(size.width, side)), bool)
    for row, column in np.ndindex(tiles.shape):
        box = grid_box(row, column, side).intersect(Box.of(size))
        if probabilities.stored(0, box):
            uncertainty.write(0, box, margin_uncertainty(probabilities.read(0, box)))
            tiles[row, column] = True
    return tiles


def _write_coarser(uncertainty: Pyramid, level: int, finer: Tiles) -> Tiles:
    """Write a coarser level from the one before; returns its tiles that hold something."""
    side, grid = uncertainty.spec.tile_px, Box.of(uncertainty.spec.sizes[level])
    tiles = pool_any(finer, 2)
    for row, column in np.argwhere(tiles).tolist():
        halve_tile(uncertainty, level, grid_box(row, column, side).intersect(grid), labels=False)
    return tiles


def _describe(uncertainty: Pyramid, record: RunRecord, mask: Pyramid) -> None:
    """Write the metadata: those of the mask, but for the labels."""
    attributes: dict[str, Any] = read_attributes(mask.spec.path)
    version, finest = record.config.ngff, record.scales[-1]
    frames = [
        ngff.level_frame(str(level), finest.mpp * 2**level, record.slide.mpp_xy, record.slide.bounds_xywh[:2])
        for level in range(len(uncertainty.spec.sizes))
    ]
    entries = attributes["ome"] if version == "0.5" else attributes
    entries.pop("image-label")
    entries["multiscales"] = [
        ngff.multiscales("uncertainty", frames, channels=False, method="2x2 mean", version=version)
    ]
    xml = image_of(
        "uncertainty", uncertainty.spec.sizes[0], finest.mpp, record.bundle.classes, attributes.get("wsi-magnet", {})
    )
    uncertainty.describe_ome(ome_xml(xml, tiff=False))
    uncertainty.describe(attributes)
