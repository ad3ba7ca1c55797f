"""Microns per level-0 pixel and their source, from numbers and metadata; reads no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite, nan

from wsi_magnet.config import LEAST_MPP, MOST_MPP
from wsi_magnet.errors import ConfigError
from wsi_magnet.values import check

MppXY = tuple[float, float]
"""Microns per level-0 pixel, (x, y)."""

MOST_TAG_MPP = 20.0
"""Upper limit for a TIFF's resolution tags, which most programs fill with a printer's 72, 96, 300 or 600 dots per inch
(353 to 42 microns)."""

_MICRONS = {"inch": 25400.0, "centimeter": 10000.0}


def check_mpp(mpp: float) -> MppXY:
    """Return a given mpp for both axes. Raises ConfigError for one that no slide can have."""
    given: float = check(float, mpp, "mpp")
    if not _plausible(given, MOST_MPP):
        raise ConfigError(
            f"mpp {given:g} is no resolution of a slide; give microns per pixel, {LEAST_MPP:g} to {MOST_MPP:g}",
            arguments=("mpp",),
        )
    return given, given


def mpp_from_properties(properties: Mapping[str, str]) -> tuple[MppXY | None, str]:
    """Mpp in OpenSlide's properties, and its source; None and "none (reason)" if there is no usable one."""
    refused = []
    for source, most, mpp_xy in _candidates(properties):
        if all(_plausible(mpp, most) for mpp in mpp_xy):
            return mpp_xy, source
        refused.append(f"none ({source} says {mpp_xy[0]:.4g})")
    return None, refused[0] if refused else "none"


def mpp_from_tiff_tags(x_resolution: float, y_resolution: float, unit: str) -> tuple[MppXY | None, str]:
    """Mpp of a TIFF's resolution in pixels per `unit`, "inch" or "centimeter"; returned as by `mpp_from_properties`."""
    return mpp_from_properties(
        {
            "tiff.XResolution": str(x_resolution),
            "tiff.YResolution": str(y_resolution),
            "tiff.ResolutionUnit": unit,
        }
    )


def _candidates(properties: Mapping[str, str]) -> Iterator[tuple[str, float, MppXY]]:
    """(Source, largest plausible mpp, mpp), best source first."""
    # OpenSlide takes a generic TIFF's openslide.mpp-x from its tags, so the limit for tags applies.
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
        return float(text.replace(",", "."))  # some scanners write a decimal comma
    except ValueError:
        return nan


def _plausible(mpp: float, most: float) -> bool:
    return isfinite(mpp) and LEAST_MPP <= mpp <= most
