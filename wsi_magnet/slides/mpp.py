"""How many microns a level-0 pixel is, and who says so: numbers and metadata in, no file touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite, nan

from wsi_magnet.errors import ConfigError

MppXY = tuple[float, float]
"""Microns per level-0 pixel, (x, y)."""

LEAST_MPP, MOST_MPP = 0.01, 100.0
"""What a microscope's picture can have: the finest scanners make 0.1, an overview of a whole glass some 30. Metadata
says 0, -1 and 1000 too, and none of them is meant."""

MOST_TAG_MPP = 20.0
"""The same for a TIFF's resolution tags, which most programs fill with a printer's 72, 96, 300 or 600 dots an inch
(353 to 42 microns)."""

_MICRONS = {"inch": 25400.0, "centimeter": 10000.0}


def check_mpp(mpp: float) -> MppXY:
    """An mpp that the user gives, for both axes. Raises ConfigError where no slide can have it."""
    if not _plausible(mpp, MOST_MPP):
        raise ConfigError(
            f"--mpp {mpp:g} is no resolution of a slide; give microns per pixel, {LEAST_MPP:g} to {MOST_MPP:g}"
        )
    return mpp, mpp


def mpp_from_properties(properties: Mapping[str, str]) -> tuple[MppXY | None, str]:
    """The mpp in OpenSlide's properties, and its source; None and "none (why)" where nothing usable is there."""
    refused = []
    for source, most, mpp_xy in _candidates(properties):
        if all(_plausible(mpp, most) for mpp in mpp_xy):
            return mpp_xy, source
        refused.append(f"none ({source} says {mpp_xy[0]:.4g})")
    return None, refused[0] if refused else "none"


def mpp_from_tiff_tags(x_resolution: float, y_resolution: float, unit: str) -> tuple[MppXY | None, str]:
    """The mpp in a TIFF's resolution, pixels per `unit` ("inch" or "centimeter"), and its source, as above."""
    return mpp_from_properties(
        {
            "tiff.XResolution": str(x_resolution),
            "tiff.YResolution": str(y_resolution),
            "tiff.ResolutionUnit": unit,
        }
    )


def _candidates(properties: Mapping[str, str]) -> Iterator[tuple[str, float, MppXY]]:
    """(source, the most it may say, what it says), best source first."""
    # OpenSlide makes a generic TIFF's openslide.mpp-x of its tags, so the limit for tags holds for it too.
    most = MOST_TAG_MPP if properties.get("openslide.vendor") == "generic-tiff" else MOST_MPP
    if "openslide.mpp-x" in properties:
        yield "openslide.mpp-x", most, _numbers(properties, "openslide.mpp-x", "openslide.mpp-y")
    if "aperio.MPP" in properties:
        yield "aperio.MPP", MOST_MPP, _numbers(properties, "aperio.MPP", "aperio.MPP")
    microns = _MICRONS.get(properties.get("tiff.ResolutionUnit", "").lower())
    if microns is not None and "tiff.XResolution" in properties:
        per_x, per_y = _numbers(properties, "tiff.XResolution", "tiff.YResolution")
        yield "tiff tags", MOST_TAG_MPP, (microns / (per_x or nan), microns / (per_y or nan))


def _numbers(properties: Mapping[str, str], x_key: str, y_key: str) -> MppXY:
    x = properties[x_key]
    return _number(x), _number(properties.get(y_key, x))


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))  # some scanners write numbers in their country's way
    except ValueError:
        return nan


def _plausible(mpp: float, most: float) -> bool:
    return isfinite(mpp) and LEAST_MPP <= mpp <= most
