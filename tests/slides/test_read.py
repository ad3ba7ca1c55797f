"""Regions at any mpp: everything in its place, mirrored beyond the edge, bounded in memory, the same every time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.few import slow_except
from tests.slides_made import Floats, coded, shifts, stained, write_pyramid, write_scn, write_stained_slide
from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.scales import Ladder, Scale, build_ladder
from wsi_magnet.slides.read import BLOCK_PX, read_scale, read_whole
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import Image, Level, SlideInfo, SlideReader

SIZE = Size(2003, 1501)
MPPS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
PATCH = 80


class Memory:
    """A slide of one level that is an array."""

    def __init__(self, image: Image, bounds: Box | None = None) -> None:
        size = Size(image.shape[1], image.shape[0])
        levels = (Level(size, (1.0, 1.0)),)
        self.info = SlideInfo("memory", "test", "test", levels, bounds or Box.of(size), (0.25, 0.25), "test", "0")
        self.largest_px = 0
        self._image = image

    def read_level(self, level: int, box: Box) -> tuple[Image, tuple[float, float]]:
        """See `SlideReader.read_level`."""
        assert level == 0
        assert box.intersect(Box.of(self.info.size)) == box
        self.largest_px = max(self.largest_px, box.size.pixels)
        return self._image[box.slices_yx].copy(), (float(box.x0), float(box.y0))

    def close(self) -> None:
        """Nothing to release."""


def ladder_of(reader: SlideReader) -> Ladder:
    return build_ladder(MPPS, reader.info.require_mpp(), reader.info.canvas)


def whole_pixels(scale: Scale, canvas: Size) -> Box:
    """The pixels of a scale that lie wholly on the canvas: the position of a part of one is a matter of taste."""
    return Box(0, 0, int(canvas.width / scale.downsample_xy[0]), int(canvas.height / scale.downsample_xy[1]))


def patches_at_edges(scale: Scale, canvas: Size) -> Iterator[tuple[Box, Box]]:
    """(patch reaching beyond each edge and corner, or in the middle; the part of it on the canvas)."""
    inner = whole_pixels(scale, canvas)
    for x, y in product(
        (-20, inner.x1 // 2 - PATCH // 2, inner.x1 - 60), (-20, inner.y1 // 2 - PATCH // 2, inner.y1 - 60)
    ):
        patch = Box(x, y, x + PATCH, y + PATCH)
        yield patch, patch.intersect(inner)


def assert_in_place(reader: SlideReader, axis: str) -> None:
    """At every scale and edge: all pixels less than half of one from their place, and together much less.

    The single pixels have the rounding of their colours in them, and the last ones half a level pixel that is mirrored.
    """
    for scale in ladder_of(reader).scales:
        told = [
            shifts(read_scale(reader, scale, patch)[part.relative_to(patch).slices_yx], part, scale, axis)
            for patch, part in patches_at_edges(scale, reader.info.canvas)
        ]
        beside = np.concatenate([t.ravel() for t in told])
        assert len(beside) > 1000
        assert np.abs(beside).max() < 0.4, f"{scale.mpp} mpp"
        assert np.abs(beside).mean() < 0.1, f"{scale.mpp} mpp"
        assert abs(beside.mean()) < 0.06, f"{scale.mpp} mpp"


PYRAMIDS: list[tuple[tuple[int, ...], bool]] = [((), False), *product([(2, 4, 8), (4, 16)], [False, True])]
FEW = [((2, 4, 8), True, 0.5), ((4, 16), False, 0.263)]


@pytest.mark.parametrize(
    ("factors", "stretch", "mpp"),
    slow_except(FEW, [(*pyramid, mpp) for pyramid in PYRAMIDS for mpp in (0.25, 0.2528, 0.5, 0.263)]),
)
def test_every_pixel_is_in_its_place(tmp_path: Path, mpp: float, factors: tuple[int, ...], stretch: bool) -> None:
    for axis in ("x", "y"):
        slide = write_pyramid(tmp_path / f"{axis}.tif", coded(SIZE, axis), mpp=mpp, factors=factors, stretch=stretch)
        assert_in_place(open_slide(slide), axis)


@pytest.mark.parametrize("corner_xy", [(400, 300), (403, 301)])
def test_bounds_are_the_origin(tmp_path: Path, corner_xy: tuple[int, int]) -> None:
    for axis in ("x", "y"):
        image = coded(Size(1200, 1000), axis)
        slide = write_scn(tmp_path / f"{axis}.scn", image, whole=Size(2400, 2000), corner_xy=corner_xy)
        reader = open_slide(slide)
        assert reader.info.bounds == Box.of(Size(1200, 1000)).shift(*corner_xy)
        assert_in_place(reader, axis)


def test_nothing_white_comes_in_from_beyond_the_bounds(tmp_path: Path) -> None:
    """All of the canvas is black; OpenSlide has transparent pixels round it, which are white."""
    black = np.zeros((1001, 1203, 3), np.uint8)
    reader = open_slide(write_scn(tmp_path / "a.scn", black, whole=Size(2400, 2000), corner_xy=(403, 301)))
    for scale in ladder_of(reader).scales:
        for patch, _ in patches_at_edges(scale, reader.info.canvas):
            assert read_scale(reader, scale, patch).max() == 0


def test_a_pixel_of_the_scale_of_level_0_is_that_pixel() -> None:
    image = stained(Size(90, 70))
    scale = Scale(0, 0.25, (1.0, 1.0), Size(90, 70))
    assert np.array_equal(read_scale(Memory(image), scale, Box(5, 7, 45, 37)), image[7:37, 5:45])


def test_beyond_the_canvas_is_its_mirror_image() -> None:
    image = stained(Size(30, 20))
    scale = Scale(0, 0.25, (1.0, 1.0), Size(30, 20))
    got = read_scale(Memory(image), scale, Box(-50, -45, 70, 60))
    assert np.array_equal(got, np.pad(image, ((45, 40), (50, 40), (0, 0)), mode="symmetric"))


def test_mirroring_is_at_the_bounds_and_not_at_level_0() -> None:
    image = stained(Size(60, 50))
    scale = Scale(0, 0.25, (1.0, 1.0), Size(30, 20))
    got = read_scale(Memory(image, Box(11, 12, 41, 32)), scale, Box(-5, -5, 35, 25))
    assert np.array_equal(got, np.pad(image[12:32, 11:41], 5, mode="symmetric")[..., 5:8])


def twin(image: Image, scale: Scale, box: Box) -> Floats:
    """The triangle filter written out: each pixel is a weighted mean of all pixels of the mirrored picture."""
    pad = 48
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric").astype(np.float64)

    def weights(first: int, past: int, downsample: float, length: int) -> Floats:
        centres = (np.arange(first, past) + 0.5) * downsample
        pixels = np.arange(-pad, length + pad) + 0.5
        reach = max(downsample, 1.0)
        triangle = np.maximum(0, 1 - np.abs(pixels[None] - centres[:, None]) / reach)
        return np.asarray(triangle / triangle.sum(1, keepdims=True))

    rows = weights(box.y0, box.y1, scale.downsample_xy[1], image.shape[0])
    columns = weights(box.x0, box.x1, scale.downsample_xy[0], image.shape[1])
    return np.asarray(np.einsum("yr,rcs,xc->yxs", rows, padded, columns, optimize=True))


@given(
    st.floats(0.6, 4.4),
    st.floats(0.6, 4.4),
    st.integers(-8, 12),
    st.integers(-8, 12),
)
def test_it_is_the_triangle_filter(dx: float, dy: float, x: int, y: int) -> None:
    image = stained(Size(70, 60))
    scale = Scale(0, 0.25 * dx, (dx, dy), Size(round(70 / dx), round(60 / dy)))
    box = Box(x, y, x + 9, y + 8)
    assert np.abs(read_scale(Memory(image), scale, box) - twin(image, scale, box)).max() <= 1.5


@pytest.mark.parametrize("downsample", [9.0, 13.7, 32.0])
def test_large_regions_are_read_block_by_block_and_stay_in_place(downsample: float) -> None:
    size = Size(3 * BLOCK_PX + 77, BLOCK_PX + 55)
    for axis in ("x", "y"):
        reader = Memory(coded(size, axis))
        whole = Size(int(size.width / downsample), int(size.height / downsample))
        scale = Scale(0, 1.0, (downsample, downsample), whole)
        image = read_scale(reader, scale, scale.grid)
        assert reader.largest_px <= BLOCK_PX**2
        assert np.abs(shifts(image, scale.grid, scale, axis)).max() < 0.35


@pytest.mark.slow
def test_a_slide_without_a_pyramid_needs_little_memory(tmp_path: Path) -> None:
    """A patch of 576 px at 8 mpp is 18,000 px of level 0: 1.3 GB, were it read in one piece."""
    reader = open_slide(write_stained_slide(tmp_path / "a.tif", Size(20000, 3000), levels=1))
    scale = ladder_of(reader).scales[0]
    tracemalloc.start()
    read_scale(reader, scale, Box(-32, -32, 544, 544))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_a_region_is_the_same_whatever_was_read_before(tmp_path: Path) -> None:
    """Many threads on one reader, in any order, and one thread on a fresh one."""
    slide = write_stained_slide(tmp_path / "a.tif", Size(3000, 2000), tissue_share=0.9)
    reader = open_slide(slide)
    asked = [
        (scale, patch) for scale in ladder_of(reader).scales for patch, _ in patches_at_edges(scale, reader.info.canvas)
    ]
    alone = [read_scale(open_slide(slide), scale, patch) for scale, patch in asked[::7]]
    order = np.random.default_rng(0).permutation(len(asked) * 3) % len(asked)
    with ThreadPoolExecutor(8) as threads:
        futures = {i: threads.submit(read_scale, reader, *asked[i]) for i in order.tolist()}
        together = [futures[i].result() for i in range(0, len(asked), 7)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


class Torn(Memory):
    """A slide with a part that cannot be read, of which two regions must be asked for at once."""

    torn = Box(70, 10, 75, 20)

    def __init__(self, image: Image) -> None:
        super().__init__(image)
        self._both = Barrier(2, timeout=60)

    def read_level(self, level: int, box: Box) -> tuple[Image, tuple[float, float]]:
        """See `SlideReader.read_level`."""
        if box.size.height >= 128:
            self._both.wait()
        if not box.intersect(self.torn).empty:
            raise SlideReadError("torn")
        return super().read_level(level, box)


def test_a_whole_slide_is_read_with_several_blocks_at_once_and_without_what_cannot_be_read() -> None:
    image = stained(Size(256, 128))
    reader = Torn(image)
    scale = build_ladder((0.25,), (0.25, 0.25), reader.info.canvas).finest
    pixels, unreadable = read_whole(reader, scale, block_px=128, unreadable_grey=7)
    expected = np.zeros((128, 256), np.bool_)
    expected[:64, 64:128] = True
    assert np.array_equal(unreadable, expected)
    assert (pixels[unreadable] == 7).all()
    assert np.array_equal(pixels[~unreadable], image[~unreadable])


def test_a_box_outside_is_an_error() -> None:
    scale = Scale(0, 0.25, (1.0, 1.0), Size(30, 20))
    with pytest.raises(ValueError, match="no pixel on the canvas"):
        read_scale(Memory(stained(Size(30, 20))), scale, Box(100, 100, 110, 110))


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    """Detail is kept along the finer axis, and both axes are in place."""
    for axis in ("x", "y"):
        slide = write_pyramid(tmp_path / f"{axis}.tif", coded(SIZE, axis), factors=(2, 4))
        reader = open_slide(slide)
        reader.info = replace(reader.info, mpp_xy=(0.25, 0.4))
        assert_in_place(reader, axis)
