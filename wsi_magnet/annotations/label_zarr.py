"""Zarr arrays and OME-Zarr images as label images: our own results and those of other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsi_magnet.annotations.label_pixels import Stored, decoding
from wsi_magnet.annotations.labels import Codes, value_codes
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.results.pyramid import open_finest
from wsi_magnet.slides.mpp import MppXY

_MICRONS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}


def is_zarr(path: Path) -> bool:
    """True for a folder with Zarr metadata, version 2 or 3."""
    return any((path / name).is_file() for name in (".zgroup", ".zarray", "zarr.json"))


class ZarrLabels:
    """The finest level of an image, or a plain array; read chunk by chunk. A `LabelPixels`."""

    def __init__(self, path: Path) -> None:
        """Raises AnnotationError for anything but an image of whole numbers in one plane."""
        with decoding(path):
            self._array, attributes = open_finest(path)
            *lead, height, width = self._array.shape
            self.mpp_xy: MppXY | None = _stated_mpp(attributes)
        if any(length != 1 for length in lead):
            raise AnnotationError(f"{path} has the shape {self._array.shape}; a label image is one plane (y, x)")
        if self._array.dtype.kind not in "bui":
            raise AnnotationError(f"{path} holds {self._array.dtype} pixels; labels are whole numbers")
        self.size = Size(width, height)
        self._lead: tuple[int, ...] = (0,) * len(lead)

    def read(self, box: Box) -> Stored:
        """See `LabelPixels.read`."""
        index: tuple[int | slice, ...] = (*self._lead, *box.slices_yx)
        return np.asarray(self._array[index])[..., None]

    def codes(self, stored: Stored) -> Codes:
        """See `LabelPixels.codes`."""
        return value_codes(stored[..., 0])

    def close(self) -> None:
        """No-op: no file is held open."""


def _stated_mpp(attributes: Mapping[str, Any]) -> MppXY | None:
    """Microns per pixel (x, y) of the finest level from OME-Zarr's metadata; None without a unit."""
    images = attributes.get("multiscales")
    if not images:
        return None
    image = images[0]
    units = [axis.get("unit", "") if isinstance(axis, dict) else "" for axis in image.get("axes", ())]
    scale = _product(image.get("coordinateTransformations", ()), image["datasets"][0]["coordinateTransformations"])
    if len(units) < 2 or len(scale) < 2 or any(unit not in _MICRONS for unit in units[-2:]):
        return None
    y, x = (length * _MICRONS[unit] for length, unit in zip(scale[-2:], units[-2:], strict=True))
    return (x, y) if min(x, y) > 0 else None


def _product(*transformations: Any) -> list[float]:
    """Product of the scales (..., y, x) of an image and of its level."""
    scales = [one["scale"] for several in transformations for one in several if one.get("type") == "scale"]
    return [float(length) for length in np.prod(np.array(scales, np.float64), axis=0)] if scales else []
