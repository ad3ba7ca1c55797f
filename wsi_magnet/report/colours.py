"""Colours of the report other than the classes': the scales from coarse to fine, and tissue that was not analysed.

Class colours come from the bundle, and the page's own colours are variables at the top of `templates/page.css`.
"""

from __future__ import annotations

from wsi_magnet.labels import NOT_ANALYSED_CLASS

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


def scale_color(index: int, count: int) -> Color:
    """Colour of scale `index` of `count`, 0 = coarsest."""
    return _SCALES[round(index * (len(_SCALES) - 1) / max(1, count - 1))] if count > 1 else _SCALES[-1]
