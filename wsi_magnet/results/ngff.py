"""OME-Zarr metadata as plain dictionaries, versions 0.4 and 0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_magnet.config import Ngff
from wsi_magnet.labels import LabelClass


@dataclass(frozen=True, slots=True)
class LevelFrame:
    """Position of a pyramid level on the slide."""

    path: str
    """Name of the level's array in its group."""
    mpp: float
    """Microns per pixel, the same in x and y."""
    origin_um_xy: tuple[float, float]
    """Centre of its first pixel, in microns from the centre of the slide's first level-0 pixel."""


def level_frame(path: str, mpp: float, slide_mpp_xy: tuple[float, float], bounds_xy: tuple[int, int]) -> LevelFrame:
    """Frame of a level whose grid starts at the canvas's corner.

    OME-Zarr positions pixel centres: the first centre of a level is half its pixel from the corner. Without that
    translation a viewer shows every level shifted by half its pixel.
    """
    x, y = (b * m + (mpp - m) / 2 for b, m in zip(bounds_xy, slide_mpp_xy, strict=True))
    return LevelFrame(path, mpp, (x, y))


def multiscales(
    name: str, frames: Sequence[LevelFrame], *, channels: bool, method: str, version: Ngff
) -> dict[str, Any]:
    """Entry `multiscales` of an image. frames: finest first. Axes are (c,) y, x in micrometres."""
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if channels else []
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in ("y", "x")]
    lead = [1.0] if channels else []
    start = [0.0] if channels else []
    datasets = [
        {
            "path": frame.path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [*lead, frame.mpp, frame.mpp]},
                {"type": "translation", "translation": [*start, frame.origin_um_xy[1], frame.origin_um_xy[0]]},
            ],
        }
        for frame in frames
    ]
    entry: dict[str, Any] = {"name": name, "axes": axes, "datasets": datasets, "type": method}
    if version == "0.4":
        entry["version"] = version
    return entry


def image_label(classes: Sequence[LabelClass], version: Ngff) -> dict[str, Any]:
    """Entry `image-label`: colours and names of label values; background is transparent."""
    colors = [{"label-value": c.value, "rgba": [*c.color, 0 if c.value == 0 else 255]} for c in classes]
    properties = [{"label-value": c.value, "name": c.name} for c in classes]
    return {**({"version": version} if version == "0.4" else {}), "colors": colors, "properties": properties}


def omero_channels(classes: Sequence[LabelClass]) -> dict[str, Any]:
    """Entry `omero` of a probability image: a named and coloured channel per class."""
    channels = [
        {
            "label": c.name,
            "color": "{:02X}{:02X}{:02X}".format(*(c.color if any(c.color) else (255, 255, 255))),
            "active": True,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
        }
        for c in classes
    ]
    return {"channels": channels, "rdefs": {"model": "color"}}


def attributes(version: Ngff, entries: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a group: entries at the root in 0.4 and under "ome" in 0.5, with the provenance beside them."""
    body = dict(entries) if version == "0.4" else {"ome": {"version": version, **entries}}
    return {**body, "wsi-magnet": dict(provenance)}
