"""Regions are traced whole, exactly and once, however the image is cut into blocks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import label as label_regions

from tests.export.polygonize.traced import Labels, labels, painted, traced
from wsi_magnet.export.polygonize.corners import Corners
from wsi_magnet.export.polygonize.polygons import polygon_of, signed_area
from wsi_magnet.export.polygonize.regions import Block, LabelRegion, Tracing, split_ring, trace
from wsi_magnet.export.polygonize.rings import Linker, Ring
from wsi_magnet.geometry import Box, Size


def polygons(regions: list[LabelRegion]) -> list[tuple[shapely.Polygon, int]]:
    return [(polygon_of(region.rings), region.code) for region in regions]


def outlines(image: Labels, side_px: int) -> set[bytes]:
    """Each polygon as bytes that do not depend on where its rings begin."""
    return {shapely.to_wkb(shapely.normalize(polygon)) for polygon, _ in polygons(traced(image, side_px))}


@given(labels(), st.integers(1, 40))
def test_polygons_filled_again_are_the_image(image: Labels, side_px: int) -> None:
    assert np.array_equal(painted(image.shape, polygons(traced(image, side_px))), image)


@given(labels(), st.integers(1, 40))
def test_every_polygon_is_valid(image: Labels, side_px: int) -> None:
    assert all(polygon.is_valid for polygon, _ in polygons(traced(image, side_px)))


@given(labels(), st.integers(1, 40))
def test_regions_are_those_of_scikit_image(image: Labels, side_px: int) -> None:
    """Its labelling of the whole image at once is the slow twin."""
    twin = label_regions(image, background=0, connectivity=1)
    sizes = sorted(np.bincount(twin.ravel())[1:].tolist())
    assert sorted(region.pixels for region in traced(image, side_px)) == sizes


@given(labels(), st.integers(1, 40))
def test_outlines_do_not_depend_on_the_blocks(image: Labels, side_px: int) -> None:
    assert outlines(image, side_px) == outlines(image, 64)


@given(labels(), st.integers(1, 12))
def test_the_area_within_the_rings_is_that_of_the_pixels(image: Labels, side_px: int) -> None:
    assert all(sum(map(signed_area, region.rings)) == region.pixels for region in traced(image, side_px))


@given(labels(), st.integers(1, 12), st.integers(0, 40))
def test_regions_that_are_cut_still_make_up_the_image(image: Labels, side_px: int, open_points: int) -> None:
    regions = traced(image, side_px, open_points=open_points)
    assert np.array_equal(painted(image.shape, polygons(regions)), image)


@given(labels(most=6), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_values_are_added_up_over_each_region(image: Labels, side_px: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (2, *image.shape), np.uint8)
    for region in traced(image, side_px, values):
        inside = painted(image.shape, [(polygon_of(region.rings), 1)]) == 1
        assert region.sums.tolist() == values[:, inside].sum(axis=1).tolist()


def test_diagonal_pixels_are_two_regions() -> None:
    regions = traced(np.array([[1, 0], [0, 1]], np.uint8))
    assert [region.pixels for region in regions] == [1, 1]


def test_a_ring_keeps_its_hole() -> None:
    """200 pixels with a hole of 60 a side: others make of it two filled polygons, and lose the hole's area."""
    image = np.ones((200, 200), np.uint8)
    image[70:130, 70:130] = 0
    (region,) = traced(image, side_px=64)
    assert (polygon_of(region.rings).area, region.pixels) == (36400, 36400)


def test_nested_rings_are_regions_of_their_own() -> None:
    image = np.zeros((9, 9), np.uint8)
    for i, value in enumerate((1, 2, 1, 2)):
        image[i : 9 - i, i : 9 - i] = value
    assert [(r.code, r.pixels, len(r.rings)) for r in traced(image)] == [(1, 32, 2), (2, 24, 2), (1, 16, 2), (2, 9, 1)]


def test_a_hole_of_one_pixel_stays() -> None:
    image = np.ones((3, 3), np.uint8)
    image[1, 1] = 0
    (region,) = traced(image)
    assert sorted(map(signed_area, region.rings)) == [-1, 9]


def test_a_region_that_fills_the_image_is_its_edge() -> None:
    (region,) = traced(np.ones((70, 130), np.uint8), side_px=16)
    assert shapely.equals(polygon_of(region.rings), shapely.box(0, 0, 130, 70))


def test_a_region_across_many_blocks_has_no_point_on_their_seams() -> None:
    (region,) = traced(np.ones((70, 130), np.uint8), side_px=16)
    assert len(region.rings[0]) == 4


def test_labels_at_the_right_and_lower_edge_are_there() -> None:
    image = np.zeros((65, 33), np.uint8)
    image[-1], image[:, -1] = 1, 1
    (region,) = traced(image, side_px=32)
    assert polygon_of(region.rings).bounds == (0, 0, 33, 65)


def test_an_outline_that_touches_itself_becomes_outline_and_hole() -> None:
    """The hole reaches the outside at a corner, which an outline would pass twice."""
    image = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    (region,) = traced(image)
    assert sorted(map(signed_area, region.rings)) == [-1, 8]


def test_a_ring_that_passes_no_point_twice_stays_as_it_is() -> None:
    ring = np.array([(0, 0, 1), (2, 0, 1), (2, 2, 1), (0, 2, 1)], np.int32)
    assert [part.tolist() for part in split_ring(ring)] == [ring.tolist()]


def test_regions_come_before_the_rest_of_the_image_is_read() -> None:
    """Memory is bounded because nothing waits for the end."""
    rows_read: list[int] = []

    def read(box: Box) -> Block:
        rows_read.append(box.y0)
        codes = np.zeros(box.size.hw, np.uint8)
        codes[2:4, 2:4] = 1
        return Block(codes)

    regions = trace(Tracing(Size(8, 8000), read, side_px=8))
    next(regions)
    assert max(rows_read) < 200


def test_each_block_is_read_once() -> None:
    boxes: list[Box] = []

    def read(box: Box) -> None:
        boxes.append(box)

    list(trace(Tracing(Size(100, 70), read, side_px=32)))
    assert (len(boxes), sum(box.size.pixels for box in boxes)) == (4 * 3, 7000)


@given(labels(), st.integers(1, 5))
def test_outlines_do_not_depend_on_how_many_corners_are_linked_together(image: Labels, together: int) -> None:
    wanted = [polygon_of(region.rings).normalize() for region in traced(image, 8)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_magnet.export.polygonize.regions._TOGETHER", together)
        found = [polygon_of(region.rings).normalize() for region in traced(image, 8)]
    assert found == wanted


def peak_bytes(width: int) -> int:
    """Most memory that tracing a mask without gaps takes, whose regions are of some pixels each."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(1, 5, (64, width // 4), np.uint8), np.ones((4, 4), np.uint8))
    tracing = Tracing(Size(width, len(image)), lambda box: Block(image[box.slices_yx]), side_px=256)
    tracemalloc.start()
    for _ in trace(tracing):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_a_wide_mask_takes_little_more_for_each_pixel_of_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip here has some 40 corners for a pixel of its width: 14,000 bytes if all were linked at once."""
    monkeypatch.setattr("wsi_magnet.export.polygonize.regions._TOGETHER", 2000)
    narrow, wide = peak_bytes(512), peak_bytes(2048)
    assert (wide - narrow) / 1536 < 6000


def test_corners_of_a_strip_are_linked_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.kron(np.random.default_rng(0).integers(1, 5, (24, 60), np.uint8), np.ones((2, 2), np.uint8))
    sizes: list[int] = []
    link = Linker.link

    def counted(linker: Linker, corners: Corners) -> list[Ring]:
        sizes.append(len(corners))
        return link(linker, corners)

    monkeypatch.setattr(Linker, "link", counted)
    monkeypatch.setattr("wsi_magnet.export.polygonize.regions._TOGETHER", 300)
    assert np.array_equal(painted(image.shape, polygons(traced(image, 48))), image)
    in_a_row = 2 * (image.shape[1] + 1)
    assert len(sizes) > 5
    assert max(sizes) <= 300 + in_a_row
