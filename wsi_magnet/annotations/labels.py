"""Conversion of label-image pixels to labels, and of labels to label sets.

A pixel is first converted to a code, one whole number: a value as it is, a colour as `COLOUR` + 0xrrggbb, or
`NOTHING` where the picture is transparent. The label of a colour depends on the coding. If the coding lists colours
("#ff0000=6"), every pixel is a colour. Otherwise RGB pixels are values: grey is its grey level, and red alone up to 31
is that number, for data sets that keep labels in the first channel (pure red, 255, stays a colour).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_magnet.annotations.coding import Coding
from wsi_magnet.annotations.types import Sets

Codes = npt.NDArray[np.int64]
"""int64 (height, width)."""

COLOUR = 1 << 40
NOTHING = 1 << 41

MOST_RED = 31
"""The largest value that pure red stands for: data sets have a handful of classes, painted masks bright colours."""


def lists_colours(coding: Coding) -> bool:
    """True if any label of the coding is a colour "#rrggbb"."""
    return any(label.startswith("#") for label in coding.entries)


def colour_codes(samples: npt.NDArray[np.uint8]) -> Codes:
    """Codes of uint8 (height, width, 3 or 4) RGB or RGBA; wholly transparent pixels are unlabelled."""
    red, green, blue = (samples[..., channel].astype(np.int64) for channel in range(3))
    codes = COLOUR + (red << 16 | green << 8 | blue)
    if samples.shape[-1] > 3:
        codes[samples[..., 3] == 0] = NOTHING
    return codes


def value_codes(samples: npt.NDArray[Any]) -> Codes:
    """Codes of bool or whole numbers (height, width): the numbers themselves."""
    return samples.astype(np.int64)


def label_of(code: int, *, colours: bool) -> int | str:
    """The label that a code stands for: a value, or a colour "#rrggbb". colours: the coding lists colours."""
    if code < COLOUR:
        return code
    rgb = code - COLOUR
    red, green, blue = rgb >> 16, rgb >> 8 & 255, rgb & 255
    if not colours:
        if red == green == blue:
            return red
        if green == blue == 0 and red <= MOST_RED:
            return red
    return f"#{rgb:06x}"


class SetTable:
    """Lookup table of label sets by code, extended as new codes occur; thread-safe."""

    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._colours = lists_colours(coding)
        self._known = (np.array([NOTHING], np.int64), np.array([coding.ignored], np.uint32))

    def sets(self, codes: Codes) -> Sets:
        """Label sets, uint32 of the same shape. Raises AnnotationError for an unknown label."""
        while True:
            known, sets = self._known
            places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
            strange = known[places] != codes
            if not strange.any():
                return np.asarray(sets[places])
            self._known = self._extended(known, sets, np.unique(codes[strange]))

    def _extended(self, known: Codes, sets: Sets, new: Codes) -> tuple[Codes, Sets]:
        # The pair is replaced as a whole, so that no thread sees half of it; an entry lost to a concurrent replacement
        # is added again at its next use.
        labels = (label_of(code, colours=self._colours) for code in new.tolist())
        codes = np.concatenate([known, new])
        meanings = np.concatenate([sets, np.array([self._coding.set_of(label) for label in labels], np.uint32)])
        order = np.argsort(codes)
        return codes[order], meanings[order]
