"""The poster's table: accuracy, memory and time of its methods on its three data sets.

The figures are those that the authors of the paper printed; none was measured with this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

SOURCE = "Huynh, Tran, Luu and Hoai, Progressive Semantic Segmentation, CVPR 2021, table of the poster"

CITYSCAPES, DEEPGLOBE, GLEASON = "Cityscapes", "DeepGlobe", "Gleason"

IMAGE_WH: Mapping[str, tuple[int, int]] = MappingProxyType(
    {CITYSCAPES: (2048, 1024), DEEPGLOBE: (2448, 2448), GLEASON: (5000, 5000)}
)
"""Width and height of an image, in pixels, by the data set's name; the paper resizes all images of a set to it."""


@dataclass(frozen=True, slots=True)
class PosterFigure:
    """One method on one data set."""

    miou_percent: float
    """Mean IoU over the classes; for Gleason perhaps weighted by their frequency, which the paper leaves open."""
    memory_mb: int
    """GPU memory, in MB."""
    seconds: float
    """Time of an image."""

    @property
    def miou(self) -> float:
        """Mean IoU, 0 to 1."""
        return self.miou_percent / 100


def _figures(
    cityscapes: tuple[float, int, float] | None,
    deepglobe: tuple[float, int, float] | None,
    gleason: tuple[float, int, float] | None,
) -> Mapping[str, PosterFigure]:
    found = {CITYSCAPES: cityscapes, DEEPGLOBE: deepglobe, GLEASON: gleason}
    return MappingProxyType({name: PosterFigure(*one) for name, one in found.items() if one is not None})


POSTER: Mapping[str, Mapping[str, PosterFigure]] = MappingProxyType(
    {
        "Patching": _figures((52.19, 1575, 1.77), (70.98, 1247, 0.31), (46.56, 1903, 2.42)),
        "Downsample": _figures((63.23, 1575, 0.02), (67.86, 1247, 0.01), (68.90, 1903, 0.02)),
        "DenseCRF": _figures((62.95, 1575, 26.02), (70.36, 1247, 39.68), (69.46, 1903, 141.79)),
        "DGF": _figures((63.33, 1727, 0.32), (70.38, 1435, 0.25), (68.91, 2223, 0.29)),
        "GLNet": _figures(None, (71.60, 1865, 0.37), None),
        "PointRend": _figures((64.39, 2033, 0.14), (71.78, 1593, 0.16), (68.97, 2655, 0.21)),
        "SegFix": _figures((65.83, 2961, 0.38), None, None),
        "MagNet-Fast": _figures((66.91, 2007, 0.32), (71.85, 1559, 0.29), (69.75, 2621, 0.33)),
        "MagNet": _figures((67.57, 2007, 2.93), (72.96, 1559, 1.19), (70.60, 2621, 2.74)),
    }
)
"""Figures by method and data set, in the poster's order; what the poster leaves out is absent."""
