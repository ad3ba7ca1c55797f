"""Strips there and back: columns lie on the contours, rows along the normals, and a strip finds its way home."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, gaussian_filter

from wsi_magnet.methods.strips import Strips, nearest, put_back, trace, unroll

Floats = npt.NDArray[np.float64]
HALF = 8


def disc(radius: float, side: int = 64, centre: float = 31.3) -> Floats:
    """Two probabilities (2, side, side): class 1 in a disc, with a soft edge 6 pixels wide."""
    y, x = np.mgrid[:side, :side]
    inside = np.clip((radius - np.hypot(y - centre, x - centre)) / 6 + 0.5, 0, 1)
    return np.stack([1 - inside, inside])


def blobs(seed: int, n_classes: int, side: int = 64) -> Floats:
    """Smooth random probabilities (C, side, side) whose classes touch each other."""
    noise = np.random.default_rng(seed).normal(size=(n_classes, side, side))
    smooth = np.stack([gaussian_filter(one, 6) for one in noise]) * 60
    exponent = np.exp(smooth - smooth.max(axis=0))
    found: Floats = exponent / exponent.sum(axis=0)
    return found


def traced(probabilities: Floats, shortest: int = 4, neighbours: int = 3) -> Strips:
    found = trace(probabilities, half_px=HALF, shortest=shortest, neighbours=neighbours)
    assert found is not None
    return found


def certain(strips: Strips, row: int | npt.NDArray[np.int64]) -> Floats:
    """Tails of contours that are certain to lie in a row, counted from the old contour."""
    rows = np.arange(-HALF, HALF + 2)[:, None]
    return (rows <= np.broadcast_to(row, strips.classes.shape)).astype(np.float64)


def test_columns_lie_on_the_circle_and_normals_point_out_of_the_class() -> None:
    strips = traced(disc(20))
    inside = strips.classes == 1
    radius = strips.points_yx - 31.3
    length = np.hypot(*radius.T)
    np.testing.assert_allclose(length, 20, atol=0.1)
    outward = (radius / length[:, None] * strips.normals_yx).sum(axis=1)
    assert (outward[inside] > 0.99).all()
    assert (outward[~inside] < -0.99).all()
    assert inside.sum() == pytest.approx(2 * np.pi * 20, rel=0.2)


def test_a_closed_contour_is_a_ring_and_an_open_one_has_an_end() -> None:
    ring = traced(disc(20))
    assert sorted(ring.following) == list(range(len(ring.classes)))
    pixels = np.column_stack([ring.classes, np.floor(ring.points_yx + 0.5)])
    assert len(np.unique(pixels, axis=0)) == len(pixels)
    half = np.stack([np.tile(np.linspace(0, 1, 40), (30, 1)), np.tile(np.linspace(1, 0, 40), (30, 1))])
    line = traced(half)
    assert len(line.classes) == 60
    assert (line.following == np.arange(60)).sum() == 2
    steps = line.points_yx[line.following] - line.points_yx
    np.testing.assert_allclose(np.abs(steps[line.following != np.arange(60)]), [[1, 0]] * 58)


@pytest.mark.parametrize("probabilities", [disc(20), blobs(1, 3)], ids=["ring", "blobs"])
def test_neighbours_in_the_packed_strip_are_neighbours_on_the_contour(probabilities: Floats) -> None:
    strips = traced(probabilities)
    assert (strips.packed[strips.places] == np.arange(len(strips.classes))).all()
    assert (strips.packed[strips.places + 1] == strips.following).all()
    step = np.abs(strips.points_yx[strips.packed[strips.places + 3]] - strips.points_yx).max(axis=1)
    assert (step <= 4).all()  # neighbouring pixels, and half a pixel at either end
    assert (strips.classes[strips.packed[strips.places - 3]] == strips.classes).all()


def test_a_strip_holds_the_image_along_the_normals() -> None:
    """An image of distances from the centre: every row of the strip is the radius and its distance."""
    strips = traced(disc(20))
    y, x = np.mgrid[:64, :64]
    columns = np.arange(len(strips.classes))
    found = unroll(torch.tensor(np.hypot(y - 31.3, x - 31.3))[None], strips, columns)[0].numpy()
    rows = np.arange(-HALF, HALF + 1)[:, None] * np.where(strips.classes == 1, 1, -1)
    np.testing.assert_allclose(found, 20 + rows, atol=0.25)


def test_beyond_the_image_is_what_is_asked_for() -> None:
    image = np.arange(1200, dtype=np.int32).reshape(30, 40)
    step = np.where(np.arange(40) < 2, 1.0, 0.0) * np.ones((30, 1))
    strips = traced(np.stack([step, 1 - step]))
    found = nearest(image, strips, beyond=-1)
    inside = found[:, strips.classes == 0]
    for column, y in enumerate(strips.points_yx[strips.classes == 0, 0].astype(int)):
        expected = [image[y, x] if x >= 0 else -1 for x in range(2 - HALF, 2 + HALF + 1)]
        assert inside[:, column].tolist() == expected


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 5]))
def test_contours_that_stay_give_the_same_mask(seed: int, n_classes: int) -> None:
    coarse = blobs(seed, n_classes)
    strips = trace(coarse, half_px=HALF, shortest=4, neighbours=0)
    if strips is None:
        return
    back = put_back(coarse, strips, certain(strips, 0))
    labels, found = coarse.argmax(axis=0), back.argmax(axis=0)
    border = np.zeros(labels.shape, bool)
    for c in range(n_classes):
        own = labels == c
        if own.any() and not own.all():
            border |= np.where(own, distance_transform_edt(own), distance_transform_edt(~own)) < 2
    assert (labels == found)[~border].all()
    assert (labels != found).sum() <= 0.1 * border.sum()
    np.testing.assert_allclose(back.sum(axis=0), 1, atol=1e-9)


@pytest.mark.parametrize("shift", [-6, -1, 0, 3, 7])
def test_a_circle_moved_along_its_normals_has_another_radius(shift: int) -> None:
    coarse = disc(20)
    strips = traced(coarse)
    moved = put_back(coarse, strips, certain(strips, np.where(strips.classes == 1, shift, -shift)))
    y, x = np.mgrid[:64, :64]
    signed = 20 + shift - np.hypot(y - 31.3, x - 31.3)
    inside, clear = moved[1] > 0.5, np.abs(signed) > 0.3
    assert (inside == (signed > 0))[clear].all()


@pytest.mark.parametrize("shift", [-8, -5, 0, 3, 8])
def test_a_straight_border_is_moved_exactly(shift: int) -> None:
    step = np.where(np.arange(40) < 20, 1.0, 0.0) * np.ones((30, 1))
    coarse = np.stack([step, 1 - step])
    strips = traced(coarse)
    moved = put_back(coarse, strips, certain(strips, np.where(strips.classes == 0, shift, -shift)))
    assert np.array_equal(moved[0], np.where(np.arange(40) < 20 + shift, 1.0, 0.0) * np.ones((30, 1)))


def test_beyond_every_band_nothing_changes() -> None:
    coarse = blobs(7, 5, side=96)
    strips = traced(coarse)
    moved = put_back(coarse, strips, certain(strips, 5))
    nearest_point = np.full(coarse.shape[1:], np.inf)
    for y, x in strips.points_yx:
        rows, columns = np.ogrid[:96, :96]
        nearest_point = np.minimum(nearest_point, np.hypot(rows - y, columns - x))
    far = nearest_point > HALF + 0.01
    assert far.any()
    assert np.array_equal(moved[:, far], coarse[:, far])
    assert (moved != coarse).any()


def test_where_all_contours_turn_away_the_coarse_result_stays() -> None:
    """Every class leaves its band; a third one, hardly likely there, must not take it."""
    coarse = blobs(3, 4)
    strips = traced(coarse)
    moved = put_back(coarse, strips, certain(strips, -HALF))
    assert (moved.argmax(axis=0) == coarse.argmax(axis=0)).mean() > 0.97
    np.testing.assert_allclose(moved.sum(axis=0), 1, atol=1e-9)


def test_specks_are_left_as_they_are() -> None:
    coarse = np.stack([np.ones((32, 32)), np.zeros((32, 32))])
    coarse[:, 10:12, 10:12] = [[[0.0]], [[1.0]]]
    coarse[:, 20, 20] = [0.0, 1.0]
    assert trace(coarse, half_px=HALF, shortest=16, neighbours=3) is None
    strips = traced(coarse, shortest=2)
    assert np.isfinite(strips.normals_yx).all()
    assert np.array_equal(put_back(coarse, strips, certain(strips, 0)).argmax(axis=0), coarse.argmax(axis=0))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_map_has_no_contour(value: float) -> None:
    coarse = np.stack([np.full((20, 20), value), np.full((20, 20), 1 - value)])
    assert trace(coarse, half_px=HALF, shortest=1, neighbours=3) is None
    assert trace(coarse[:, :1, :1], half_px=HALF, shortest=1, neighbours=3) is None
