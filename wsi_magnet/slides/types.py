"""What a slide is to the rest of the program: frozen facts, and a protocol of two methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsi_magnet.errors import MissingMppError
from wsi_magnet.geometry import Box, Size

Image = npt.NDArray[np.uint8]
"""uint8 (height, width, 3), RGB."""


@dataclass(frozen=True, slots=True)
class Level:
    """One stored pyramid image."""

    size: Size
    downsample_xy: tuple[float, float]
    """Level-0 pixels per pixel of this level."""

    @property
    def downsample(self) -> float:
        """The larger of the two: how coarse the level is."""
        return max(self.downsample_xy)


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """All that planning needs to know of a slide; holds no handle and can be sent anywhere."""

    path: str
    """Where it was opened, absolute."""
    reader: str
    """Name of the reader that took it: "openslide" or "image"."""
    vendor: str
    """As OpenSlide names it ("aperio", "generic-tiff", ...), or the file format of a plain image ("png", ...)."""
    levels: tuple[Level, ...]
    """Index 0 is the finest."""
    bounds: Box
    """The part of level 0 that holds the slide, in level-0 pixels; all of it where the slide does not say."""
    mpp_xy: tuple[float, float] | None
    """Microns per level-0 pixel (x, y); None where neither the slide nor the caller says."""
    mpp_source: str
    """Where mpp came from, e.g. "openslide.mpp-x", "tiff tags", "--mpp", "none"."""
    identity: str
    """Hash of the content, the same wherever the file lies (OpenSlide's quickhash-1, or our own)."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """The slide's own metadata, as text."""
    cache_bytes: int = 0
    """Decoded pixels that an open reader keeps in memory, at most."""
    said_mpp_xy: tuple[float, float] | None = None
    """What the slide itself says, where the caller says something else."""

    @property
    def size(self) -> Size:
        """Extent of level 0."""
        return self.levels[0].size

    @property
    def canvas(self) -> Size:
        """Extent of the bounds: what is segmented, and what QuPath shows."""
        return self.bounds.size

    def require_mpp(self) -> tuple[float, float]:
        """The mpp (x, y); raises MissingMppError where there is none."""
        if self.mpp_xy is None:
            raise MissingMppError(
                f"{self.path} has no usable mpp{self.mpp_source.removeprefix('none')}; "
                f"pass --mpp (microns per pixel at level 0)"
            )
        return self.mpp_xy


@runtime_checkable
class SlideReader(Protocol):
    """An open slide. Reading is safe from several threads at once."""

    info: SlideInfo

    def read_level(self, level: int, box: Box) -> tuple[Image, tuple[float, float]]:
        """Decode a rectangle of one level as it is stored.

        box: in pixels of that level, counted from level 0's corner (not the bounds'); it lies inside the level.
        Returns uint8 (box height, box width, 3) RGB with alpha composed on white, and the exact position (x, y) of its
        upper left corner in the level's pixels, which may differ from the box's by under a pixel (OpenSlide takes
        whole level-0 positions only). Raises SlideReadError.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...
