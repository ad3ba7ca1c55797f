"""Colours of the report other than the classes': the scales from coarse to fine, and tissue that was not analysed.

Class colours come from the bundle, and `vivid` makes pale ones stronger. The page's own colours are variables at the
top of `templates/page.css`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import replace

from wsi_magnet.labels import NOT_ANALYSED_CLASS, LabelClass

Color = tuple[int, int, int]

GREY: Color = NOT_ANALYSED_CLASS.color
"""Tissue that was not analysed."""

NOT_LOOKED_AT: Color = (70, 80, 110)
"""Cells in which no tissue was found."""

_SCALES: tuple[Color, ...] = (
    (255, 255, 204),
    (199, 233, 180),
    (127, 205, 187),
    (65, 182, 196),
    (44, 127, 184),
    (37, 52, 148),
)
"""Coarse to fine; ColorBrewer's YlGnBu, which people with colour vision deficiency distinguish by lightness."""

_GREY_BELOW, _PALE_BELOW, _VIVID = 0.1, 0.4, 0.75
"""Saturation below which a colour is a grey, and so meant; below which it is pale; and that it is drawn with then."""


def vivid(classes: Iterable[LabelClass]) -> list[LabelClass]:
    """The classes with colours that can be seen over tissue: a pale green over pink is a paler pink."""
    return [replace(one, color=_vivid(one.color)) for one in classes]


def _vivid(color: Color) -> Color:
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    if not _GREY_BELOW <= saturation < _PALE_BELOW:
        return color
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, _VIVID, value))
    return red, green, blue


def scale_color(index: int, count: int) -> Color:
    """Colour of scale `index` of `count`, 0 = coarsest."""
    return _SCALES[round(index * (len(_SCALES) - 1) / max(1, count - 1))] if count > 1 else _SCALES[-1]
