"""OME-TIFF of a result's image: the levels of its own pyramid, tile by tile, so that no slide is too large."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from wsi_magnet._version import __version__
from wsi_magnet.config import CHUNK_PX
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box
from wsi_magnet.results.alarms import kinds_text
from wsi_magnet.results.ome_xml import OmeImage, Product, image_of, ome_xml
from wsi_magnet.results.pyramid import Pyramid
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import Exported, FileOptions, refuse_existing, whole

SUFFIXES = (".ome.tif", ".ome.tiff")
"""Suffixes by which Bio-Formats, and with it QuPath, recognises OME-XML in a TIFF."""

_SIDE = CHUNK_PX
"""Side of a TIFF tile: a chunk of the store, so that each chunk is read once for each channel."""

_DEFLATE = 6


def write_ome_tiff(source: Result, target: Path, product: Product, files: FileOptions) -> Exported:
    """An image as tiled BigTIFF with its pyramid in SubIFDs, uint8; probabilities have a page a class.

    Raises ConfigError for another suffix and for an image that the run did not keep, StoreError where
    something cannot be read or written, or the target exists.
    """
    if not target.name.lower().endswith(SUFFIXES):
        raise ConfigError(f"{target} is not a name for an OME-TIFF; end it in {' or '.join(SUFFIXES)}")
    refuse_existing(target, overwrite=files.overwrite)
    pyramid = pyramid_of(source, product)
    with whole(target) as partial, tifffile.TiffWriter(partial, bigtiff=True) as tiff:
        _write(tiff, source, pyramid, describe_image(source, product))
    return Exported((target,), 0, source.unfinished)


def pyramid_of(source: Result, product: Product) -> Pyramid:
    """An image of a result. Raises ConfigError where the run does not have it (yet)."""
    images = {
        "mask": source.mask_image,
        "probabilities": source.probabilities_image,
        "uncertainty": source.uncertainty_image,
    }
    pyramid = images[product]
    if pyramid is None and source.running:
        raise ConfigError(f"{source.folder} has no {product} until the run is finished; export its mask, or wait")
    if pyramid is None:
        raise ConfigError(f"{source.folder} has kept no {product}; run again with --keep {product} --restart")
    return pyramid


def describe_image(source: Result, product: Product) -> OmeImage:
    """The contents of the OME-XML of a result's image."""
    about = {
        "slide": source.name,
        "slide_identity": source.identity,
        "bundle": source.record.bundle.name,
        "bundle_sha256": source.record.bundle.sha256,
        "bounds_xy_level0_px": list(source.geometry.bounds_xy),
        "slide_mpp_xy": list(source.geometry.slide_mpp_xy),
        "finest_complete_mpp": source.geometry.mpp,
        "version": source.record.program_version,
        "state": source.state,
        "alarms": kinds_text(source.alarms),
        "exported_by": f"wsi-magnet {__version__}",
        "note": "Not for diagnosis.",
    }
    return image_of(product, source.geometry.size, source.geometry.mpp, source.classes, about)


def _write(tiff: tifffile.TiffWriter, source: Result, pyramid: Pyramid, image: OmeImage) -> None:
    channels = pyramid.spec.channels
    for level in source.levels:
        first = level == source.level
        per_cm = 1e4 / source.mpp_of(level)
        options: dict[str, Any] = (
            {"description": ome_xml(image, tiff=True).encode(), "subifds": len(source.levels) - 1}
            if first
            else {"subfiletype": 1}
        )
        tiff.write(
            _tiles(source, pyramid, level),
            shape=(*(() if channels is None else (channels,)), *pyramid.spec.sizes[level].hw),
            dtype=np.uint8,
            tile=(_SIDE, _SIDE),
            photometric="minisblack",
            compression="zlib",
            metadata=None,
            software=f"wsi-magnet {__version__}",
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            **options,
        )


def _tiles(source: Result, pyramid: Pyramid, level: int) -> Iterator[bytes]:
    """The compressed tiles of a level, row by row, channel after channel.

    A chunk that was never written becomes a tile of zeros, compressed to 0.1 % of its size: libtiff calls a TIFF that
    lacks some of its tiles damaged.
    """
    pyramid.require(level)
    empty = _compressed(np.zeros((_SIDE, _SIDE), np.uint8))
    for channel in range(pyramid.spec.channels or 1):
        for box in source.blocks(level, _SIDE):
            yield _compressed(_tile(pyramid, level, box, channel)) if pyramid.stored(level, box) else empty


def _tile(pyramid: Pyramid, level: int, box: Box, channel: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = pyramid.read(level, box)
    tile = np.zeros((_SIDE, _SIDE), np.uint8)
    tile[: box.size.height, : box.size.width] = pixels if pixels.ndim == 2 else pixels[channel]
    return tile


def _compressed(tile: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return bytes(imagecodecs.deflate_encode(tile.tobytes(), level=_DEFLATE))
