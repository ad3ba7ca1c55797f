"""The independent test of glass, and mIoU against an annotation of another resolution, on pictures of known truth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from benchmarks.tissue import NOT_ANNOTATED, bare_glass, miou
from wsi_magnet.results.reader import Result


def test_bare_glass_is_white_that_reaches_the_edge() -> None:
    image = np.full((120, 120, 3), 241, np.uint8)
    image[20:100, 20:100] = (200, 140, 180)
    image[40:60, 40:60] = 241  # a lumen
    image[70, 80:] = 241  # a cleft, a pixel wide, which connects nothing
    image[5:9, 5:9] = (120, 118, 119)  # dust
    found = bare_glass(image, 1.0)
    assert found[:17].mean() > 0.95
    assert not found[23:97, 23:97].any()
    assert not found[5:8, 5:8].any()


def test_tinted_glass_is_glass_and_pale_stroma_is_not() -> None:
    image = np.full((120, 120, 3), (226, 222, 228), np.uint8)
    image[30:, 30:] = (228, 208, 222)
    found = bare_glass(image, 1.0)
    assert found[:27].all()
    assert not found[33:, 33:].any()


def test_miou_takes_the_annotation_at_the_centres_of_the_masks_pixels() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[:, 4:], truth[6:] = 1, NOT_ANNOTATED
    mask = np.ones((4, 4), np.uint8)
    mask[:, 2:] = 6
    result = cast(Result, SimpleNamespace(labels=(mask,)))
    assert miou(result, truth, 6) == pytest.approx(100)
    mask[0, 3] = 0
    # Of 6 pixels of each class one gland is the rest: 5 / 6 and 6 / 7.
    assert miou(result, truth, 6) == pytest.approx(100 * (5 / 6 + 6 / 7) / 2)
