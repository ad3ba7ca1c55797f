"""Interface of slides: frozen facts, and a protocol of two methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsi_magnet.errors import MissingMppError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.values import documented

Image = npt.NDArray[np.uint8]
"""uint8 (height, width, 3), RGB."""


@documented
@dataclass(frozen=True, slots=True)
class Level:
    """Stored level of a slide's pyramid."""

    size: Size
    downsample_xy: tuple[float, float]
    """Level-0 pixels per pixel of this level."""

    @property
    def downsample(self) -> float:
        """The larger of the two downsamples."""
        return max(self.downsample_xy)


@documented
@dataclass(frozen=True, slots=True)
class SlideInfo:
    """Facts of a slide that planning needs; holds no handle and can be sent to other processes."""

    path: str
    """Absolute path of the file."""
    reader: str
    """Name of the reader, "openslide" or "image"."""
    vendor: str
    """Vendor as named by OpenSlide ("aperio", "generic-tiff", ...), or the format of a plain image ("png", ...)."""
    levels: tuple[Level, ...]
    """Levels of the pyramid; index 0 is the finest."""
    bounds: Box
    """Part of level 0 that was scanned, in level-0 pixels; all of it if the metadata have no bounds."""
    mpp_xy: tuple[float, float] | None
    """Microns per level-0 pixel (x, y); None if neither the metadata nor the caller give them."""
    mpp_source: str
    """Source of the mpp, e.g. "openslide.mpp-x", "tiff tags", "--mpp", "none"."""
    identity: str
    """Hash of the content, independent of the path: OpenSlide's quickhash-1, or `hash_ends`."""
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Metadata of the slide, as text."""
    cache_bytes: int = 0
    """Most memory of decoded pixels that an open reader keeps, in bytes."""
    pictures: tuple[str, ...] = ()
    """Names of further images in the file, such as "label" and "macro"."""
    metadata_mpp_xy: tuple[float, float] | None = None
    """Mpp (x, y) of the metadata, where the caller gives another one."""

    @property
    def size(self) -> Size:
        """Size of level 0."""
        return self.levels[0].size

    @property
    def canvas(self) -> Size:
        """Size of the bounds, which are segmented, and shown by QuPath."""
        return self.bounds.size

    def require_mpp(self) -> tuple[float, float]:
        """Return the mpp (x, y). Raises MissingMppError if there is none."""
        if self.mpp_xy is None:
            stated = self.mpp_source.removeprefix("none")
            raise MissingMppError(
                f"{self.path} has no usable mpp{stated}; pass --mpp, in Python mpp=, the microns per pixel at level 0",
                stated=stated.strip(" ()"),
            )
        return self.mpp_xy


@runtime_checkable
class SlideReader(Protocol):
    """Open slide. Several threads may read at once."""

    info: SlideInfo

    def read_level(self, level: int, box: Box) -> tuple[Image, tuple[float, float]]:
        """Decode a rectangle of a level as it is stored.

        box: in pixels of that level, counted from level 0's corner (not the bounds'); it lies inside the level.
        Returns uint8 (box height, box width, 3) RGB with alpha composed on white, and the exact position (x, y) of its
        upper left corner in the level's pixels, which may differ from the box's by under a pixel (OpenSlide takes
        whole level-0 positions only). Raises SlideReadError.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...
