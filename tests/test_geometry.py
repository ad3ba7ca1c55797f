"""Rectangles: small facts, and properties on any rectangle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.geometry import Box, FloatBox, Size, ceil_div, round_up

numbers = st.integers(-1000, 1000)
boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h), numbers, numbers, st.integers(1, 500), st.integers(1, 500)
)


def test_size_in_both_orders() -> None:
    assert Size(3, 5).wh == (3, 5)
    assert Size(3, 5).hw == (5, 3)
    assert Size(3, 5).pixels == 15


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 x 5"):
        Size(-1, 5)


def test_slices_are_rows_then_columns() -> None:
    assert Box(1, 2, 4, 8).slices_yx == (slice(2, 8), slice(1, 4))


@given(boxes, boxes)
def test_intersection_is_the_common_pixels(a: Box, b: Box) -> None:
    common = a.intersect(b)
    columns = set(range(a.x0, a.x1)) & set(range(b.x0, b.x1))
    rows = set(range(a.y0, a.y1)) & set(range(b.y0, b.y1))
    assert common.size.pixels == len(columns) * len(rows)
    assert common.empty == (not columns or not rows)


@given(boxes)
def test_half_covers_the_whole(box: Box) -> None:
    half = box.halve()
    assert half.x0 * 2 <= box.x0 <= half.x0 * 2 + 1
    assert box.x1 <= half.x1 * 2 <= box.x1 + 1
    assert half.y0 * 2 <= box.y0 <= half.y0 * 2 + 1
    assert box.y1 <= half.y1 * 2 <= box.y1 + 1


@given(boxes, boxes)
def test_relative_is_undone_by_shift(a: Box, b: Box) -> None:
    assert a.relative_to(b).shift(b.x0, b.y0) == a


def test_outer_covers_a_float_box() -> None:
    assert FloatBox(0.5, -0.5, 2.0, 2.1).outer() == Box(0, -1, 2, 3)


@given(st.integers(0, 10**9), st.integers(1, 10**4))
def test_round_up(value: int, multiple: int) -> None:
    rounded = round_up(value, multiple)
    assert rounded % multiple == 0
    assert 0 <= rounded - value < multiple
    assert ceil_div(value, multiple) * multiple == rounded
