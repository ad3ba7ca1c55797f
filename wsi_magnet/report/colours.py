"""Colours on a page that stand for something: swatches, bars, and the scales from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

from wsi_magnet.labels import NOT_ANALYSED_CLASS
from wsi_magnet.report.markup import Html, element

Color = tuple[int, int, int]

GREY: Color = NOT_ANALYSED_CLASS.color
"""Of what was not analysed."""

_STEPS: tuple[Color, ...] = (
    (255, 255, 204),
    (199, 233, 180),
    (127, 205, 187),
    (65, 182, 196),
    (44, 127, 184),
    (37, 52, 148),
)
"""Coarse to fine; ColorBrewer's YlGnBu, which people who confuse colours tell apart by lightness."""


def swatch(color: Sequence[int]) -> Html:
    """A small square of a colour; decoration beside its name."""
    square = element("rect", width=12, height=12, rx=2, fill=_hex(color))
    return element("svg", square, class_="swatch", width=12, height=12, aria_hidden="true")


def bar(percent: float, color: Sequence[int]) -> Html:
    """A bar of that share of the width; decoration beside its number."""
    return stacked([(percent, color)])


def stacked(parts: Sequence[tuple[float, Sequence[int]]]) -> Html:
    """Shares in percent, one after the other."""
    rects, x = [], 0.0
    for share, color in parts:
        rects.append(element("rect", x=f"{x:.2f}", width=f"{share:.2f}", height=4, fill=_hex(color)))
        x += share
    return element("svg", *rects, class_="bar", viewBox="0 0 100 4", preserveAspectRatio="none", aria_hidden="true")


def scale_color(index: int, count: int) -> Color:
    """Of scale `index`, 0 = coarsest."""
    return _STEPS[round(index * (len(_STEPS) - 1) / max(1, count - 1))] if count > 1 else _STEPS[-1]


def _hex(color: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
