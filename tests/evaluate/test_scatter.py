"""Accuracy against time: labels that can be read."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.evaluate.made_counts import made_comparison
from wsi_magnet.evaluate.bootstrap import Estimate
from wsi_magnet.evaluate.figure import draw_scatter
from wsi_magnet.evaluate.report import make_report
from wsi_magnet.evaluate.scatter import Dot, _overlap, draw_methods, place_labels

INSIDE = (0.0, 0.0, 1000.0, 700.0)
PLACES = st.tuples(st.floats(0, 1000), st.floats(0, 700))


@given(st.lists(PLACES, min_size=1, max_size=13))
def test_each_label_touches_the_surroundings_of_its_dot(dots: list[tuple[float, float]]) -> None:
    labels = place_labels(dots, [(90.0, 20.0)] * len(dots), 8.0, INSIDE)
    for (x, y), (left, bottom, right, top) in zip(dots, labels, strict=True):
        assert right - left == pytest.approx(90)
        assert top - bottom == pytest.approx(20)
        assert _overlap((left, bottom, right, top), (x - 110, y - 45, x + 110, y + 45)) == pytest.approx(90 * 20)


def test_labels_of_dots_that_are_a_little_apart_do_not_overlap() -> None:
    rng = np.random.default_rng(3)
    dots = [(150.0 + 60 * i, 350 + 25 * float(rng.standard_normal())) for i in range(13)]
    labels = place_labels(dots, [(90.0, 20.0)] * 13, 8.0, INSIDE)
    assert max(_overlap(one, other) for one, other in combinations(labels, 2)) == 0
    assert all(_overlap(one, INSIDE) == pytest.approx(90 * 20) for one in labels)


def size(png: bytes) -> tuple[int, int]:
    return Image.open(BytesIO(png)).size


def test_a_picture_of_all_rows_of_one_and_of_none() -> None:
    comparison = made_comparison(["Patching", "Downsample", "GF", "ISS", "MagNet-Fast", "MagNet"])
    one = Dot("MagNet", Estimate(0.7, float("nan"), float("nan")), 2.0, reference=True)
    pictures = [draw_scatter(make_report(comparison, resamples=20)), draw_methods([one], "one"), draw_methods([], "")]
    assert {size(png) for png in pictures} == {(1140, 780)}
    assert len(set(pictures)) == 3


def test_rows_that_were_not_timed_are_left_out() -> None:
    timed, other = (Dot(name, Estimate(0.7, 0.6, 0.8), seconds) for name, seconds in (("a", 2.0), ("b", float("nan"))))
    assert draw_methods([timed, other], "t") == draw_methods([timed], "t")
