"""Label images for tests of outlines: random ones of the awkward kinds, traced, and rasterised again by others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from shapely.geometry.base import BaseGeometry

from wsi_magnet.export.polygonize.regions import Block, LabelRegion, Tracing, trace
from wsi_magnet.geometry import Size

Labels = npt.NDArray[np.uint8]


def labels(most: int = 12, classes: int = 3) -> st.SearchStrategy[Labels]:
    """Small images of up to `classes` and background; pixels are often doubled, which makes thicker regions."""
    shapes = st.tuples(st.integers(1, most), st.integers(1, most))
    small = shapes.flatmap(lambda shape: st_numpy.arrays(np.uint8, shape, elements=st.integers(0, classes)))
    return st.tuples(small, st.integers(1, 3)).map(lambda made: np.kron(made[0], np.ones((made[1],) * 2, np.uint8)))


def traced(
    image: Labels, side_px: int = 512, values: npt.NDArray[np.uint8] | None = None, **options: Any
) -> list[LabelRegion]:
    """All regions of an image that is handed over in blocks of that side."""

    def read(box: Any) -> Block | None:
        codes = image[box.slices_yx]
        if not codes.any():
            return None
        return Block(codes, None if values is None else values[:, *box.slices_yx])

    n_values = 0 if values is None else len(values)
    size = Size(image.shape[1], image.shape[0])
    return list(trace(Tracing(size, read, n_values, side_px=side_px, **options)))


def painted(shape: tuple[int, int], polygons: Iterable[tuple[BaseGeometry, int]]) -> Labels:
    """Polygons as an image by GEOS: the pixels whose centres lie in them; 255 where two of them do."""
    image = np.zeros(shape, np.uint8)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    for polygon, value in polygons:
        inside = shapely.contains_xy(polygon, x, y)
        image[inside] = np.where(image[inside] > 0, 255, value)
    return image
