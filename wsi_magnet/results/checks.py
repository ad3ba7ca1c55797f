"""What an export relies on in run.json, looked at before any of it is used: somebody may have edited it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any


def check_run(run: Mapping[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError, which say what is wrong."""
    slide, bundle = run["slide"], run["bundle"]
    _need(isinstance(slide["path"], str) and isinstance(slide["identity"], str), "slide", slide)
    for name in ("name", "sha256"):
        _need(isinstance(bundle[name], str), f"bundle.{name}", bundle[name])
    _need(isinstance(run["software"]["wsi-magnet"], str), "software.wsi-magnet", run["software"])
    mpp = run["config"]["mpp"]
    _need(mpp is None or _positive(mpp), "config.mpp", mpp)
    _need(len(slide["mpp_xy"]) == 2 and all(map(_positive, slide["mpp_xy"])), "slide.mpp_xy", slide["mpp_xy"])
    _whole("slide.size_wh", slide["size_wh"], [1, 1])
    _whole("slide.bounds_xywh", slide["bounds_xywh"], [0, 0, 1, 1])
    for scale in run["scales"]:
        _need(_positive(scale["mpp"]), "a scale's mpp", scale["mpp"])
        _whole("a scale's size_wh", scale["size_wh"], [1, 1])
    values = [one["value"] for one in bundle["classes"]]
    for one in bundle["classes"]:
        _need(is_text(one["name"]), "a class's name", one["name"])
        _whole(f"the value of class {one['name']}", [one["value"]], [0])
        _whole(f"the colour of class {one['name']}", one["color"], [0, 0, 0])
        _need(one["value"] < 255 and max(one["color"]) <= 255, f"class {one['name']}", one)
    _need(0 < len(values) == len(set(values)), "values of classes", values)


def is_text(value: Any) -> bool:
    """True for text that can be written down: no halves of surrogates."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and 0 < value < 1e6


def _whole(what: str, values: Any, least: list[int]) -> None:
    """Raises ValueError where they are not so many whole numbers, each at least as large."""
    fine = isinstance(values, list) and len(values) == len(least)
    _need(fine and all(type(v) is int and v >= low for v, low in zip(values, least, strict=True)), what, values)


def _need(fine: bool, what: str, value: Any) -> None:
    if not fine:
        raise ValueError(f"{what} cannot be {value!r}")
