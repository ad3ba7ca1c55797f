"""Slides that are only facts, classes and scales for tests of annotations, and documents of each kind of XML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wsi_magnet.annotations.coding import Coding
from wsi_magnet.annotations.registry import CheckedAnnotation, open_annotation
from wsi_magnet.annotations.types import Sets
from wsi_magnet.geometry import Box, Size
from wsi_magnet.nets.classes import named_classes
from wsi_magnet.scales import Scale, scale_at
from wsi_magnet.slides.types import Level, SlideInfo

CLASSES = named_classes(["background", "stroma", "benign gland", "Gleason 3"])
BACKGROUND, STROMA, GLAND, GLEASON_3 = 1, 2, 4, 8
ALL = 15
"""The set of what is not labelled."""

MPP = 0.25


def slide(width: int, height: int, *, bounds: Box | None = None, mpp: float | None = MPP) -> SlideInfo:
    """The facts of a slide that lies nowhere."""
    size = Size(width, height)
    return SlideInfo(
        path="slide.tif",
        reader="image",
        vendor="tiff",
        levels=(Level(size, (1.0, 1.0)),),
        bounds=bounds or Box.of(size),
        mpp_xy=None if mpp is None else (mpp, mpp),
        mpp_source="none" if mpp is None else "made",
        identity="made",
    )


def opened(path: Path, info: SlideInfo, coding: str = "") -> CheckedAnnotation:
    return open_annotation(path, info, Coding.parse(coding, CLASSES))


def scale_of(info: SlideInfo, downsample: float = 1.0) -> Scale:
    """A scale of that many level-0 pixels a pixel."""
    return scale_at(MPP * downsample, (MPP, MPP), info.canvas)


def read(path: Path, info: SlideInfo, coding: str = "", downsample: float = 1.0) -> Sets:
    """All the sets of an annotation at a scale."""
    scale = scale_of(info, downsample)
    return opened(path, info, coding).read(scale, scale.grid)


def square(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    """A closed ring."""
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(geometry: dict[str, Any] | list[Any], cls: str | None = "stroma", **properties: Any) -> dict[str, Any]:
    """A QuPath annotation; a list is the rings of a polygon."""
    if isinstance(geometry, list):
        geometry = {"type": "Polygon", "coordinates": geometry}
    classification = {} if cls is None else {"classification": {"name": cls}}
    return {"type": "Feature", "geometry": geometry, "properties": {**classification, **properties}}


def write_geojson(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def asap(*annotations: str) -> str:
    return f"<ASAP_Annotations><Annotations>{''.join(annotations)}</Annotations></ASAP_Annotations>"


def asap_annotation(ring: list[list[float]], *, group: str = "stroma", kind: str = "Polygon", name: str = "a") -> str:
    points = "".join(
        f'<Coordinate Order="{i}" X="{str(x).replace(".", ",")}" Y="{str(y).replace(".", ",")}"/>'
        for i, (x, y) in enumerate(ring)
    )
    head = f'Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#ffffff"'
    return f"<Annotation {head}><Coordinates>{points}</Coordinates></Annotation>"


def imagescope(*regions: str, name: str = "stroma", description: str = "") -> str:
    attributes = f'<Attributes><Attribute Name="Description" Id="0" Value="{description}"/></Attributes>'
    layer = f'<Annotation Id="1" Name="{name}" Type="4">{attributes}<Regions>{"".join(regions)}</Regions></Annotation>'
    return f'<Annotations MicronsPerPixel="0.25">{layer}</Annotations>'


def imagescope_region(ring: list[list[float]], *, kind: int = 0, negative: bool = False, text: str = "") -> str:
    points = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring)
    head = f'Id="1" Type="{kind}" Text="{text}" NegativeROA="{int(negative)}"'
    return f"<Region {head}><Attributes/><Vertices>{points}</Vertices></Region>"
