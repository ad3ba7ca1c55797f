"""OpenSlide reader: bounds, alpha, errors that latch, threads, no pickling."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.slides_made import TILE_PX, coded, stained, write_pyramid, write_scn, write_stained_slide
from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.slides.openslide import OpenSlideReader, bounds_of, open_openslide

SIZE = Size(300, 200)
BROKEN = (0, 1, 2)
"""Level, row and column of the tile that is no JPEG."""


@pytest.fixture
def broken(tmp_path: Path) -> OpenSlideReader:
    size = Size(4 * TILE_PX, 3 * TILE_PX)
    return open_openslide(write_stained_slide(tmp_path / "a.tif", size, tissue_share=0.9, levels=2, broken=[BROKEN]))


def tile(row: int, column: int) -> Box:
    return Box(0, 0, TILE_PX, TILE_PX).shift(column * TILE_PX, row * TILE_PX)


def properties(*values: object) -> dict[str, str]:
    names = ("x", "y", "width", "height")
    return {f"openslide.bounds-{name}": str(value) for name, value in zip(names, values, strict=False)}


def test_bounds() -> None:
    assert bounds_of(properties(30, 40, 100, 50), SIZE) == Box(30, 40, 130, 90)


@pytest.mark.parametrize(
    "values", [(), (30, 40, 100), (30, 40, 100, "?"), (400, 40, 100, 50), (30, 40, 0, 50)], ids=str
)
def test_bounds_that_cannot_be_used_are_all_of_level_0(values: tuple[object, ...]) -> None:
    assert bounds_of(properties(*values), SIZE) == Box.of(SIZE)


def test_bounds_are_cut_at_level_0() -> None:
    assert bounds_of(properties(-5, 40, 1000, 1000), SIZE) == Box(0, 40, 300, 200)


def test_the_facts_of_a_real_slide(small_svs: Path) -> None:
    info = open_openslide(small_svs).info
    assert (info.reader, info.vendor, info.size) == ("openslide", "aperio", Size(2220, 2967))
    assert (info.mpp_xy, info.mpp_source) == ((0.499, 0.499), "openslide.mpp-x")
    assert info.identity == "6335ea0e6cc54c2cba64bb265d3c713a50cd84484924e3a9c109558c13521d5c"
    assert info.bounds == Box.of(info.size)


def test_pixels_are_as_stored(tmp_path: Path) -> None:
    image = stained(SIZE)
    reader = open_openslide(write_pyramid(tmp_path / "a.tif", image))
    got, corner = reader.read_level(0, Box(7, 11, 290, 190))
    assert np.array_equal(got, image[11:190, 7:290])
    assert got.dtype == np.uint8
    assert corner == (7.0, 11.0)


def test_the_corner_that_is_returned_is_the_one_that_was_read(tmp_path: Path) -> None:
    """A level of 3.97 level-0 pixels: regions begin between its pixels, by at most one before what was asked for."""
    reader = open_openslide(write_pyramid(tmp_path / "a.tif", coded(Size(1191, 700)), factors=(4,)))
    for x in range(3, 200, 7):
        image, corner = reader.read_level(1, Box(x, 20, x + 60, 30))
        assert x - 1 < corner[0] <= x
        centres = (corner[0] + np.arange(60) + 0.5) * 4
        blue = 510 * centres / 4096
        assert np.abs(image[5, :, 2] - blue).max() < 1.5


def test_what_was_not_scanned_is_white(tmp_path: Path) -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    reader = open_openslide(write_scn(tmp_path / "a.scn", image, whole=Size(400, 300), corner_xy=(50, 60)))
    got, _ = reader.read_level(0, Box(0, 0, 400, 300))
    assert (got[60:160, 50:170] == 0).all()
    got[60:160, 50:170] = 255
    assert (got == 255).all()


def test_an_error_names_slide_place_and_reason(broken: OpenSlideReader) -> None:
    with pytest.raises(SlideReadError) as caught:
        broken.read_level(0, tile(1, 2).grow(-20))
    message = str(caught.value)
    assert "\n" not in message
    assert "a.tif" in message
    assert "level 0" in message
    assert str((2 * TILE_PX + 20, TILE_PX + 20)) in message


def test_an_error_does_not_latch(broken: OpenSlideReader) -> None:
    before, _ = broken.read_level(0, tile(0, 0))
    with pytest.raises(SlideReadError):
        broken.read_level(0, tile(1, 2))
    after, _ = broken.read_level(0, tile(0, 0))
    assert np.array_equal(before, after)


def test_one_threads_error_is_not_anothers(broken: OpenSlideReader) -> None:
    """Good and bad tiles at once, many times over: exactly the bad ones fail."""

    def readable(row: int, column: int) -> bool:
        try:
            broken.read_level(0, tile(row, column).grow(-5))
        except SlideReadError:
            return False
        return True

    places = [*product(range(3), range(4))] * 8
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda place: readable(*place), places))
    assert results == [place != BROKEN[1:] for place in places]


def test_a_file_that_is_cut_off_while_it_is_open_is_named(broken: OpenSlideReader) -> None:
    os.truncate(broken.info.path, 1000)
    with pytest.raises(SlideReadError, match=r"a\.tif: level 0, .* cannot be read"):
        broken.read_level(0, tile(0, 0))


def test_reading_a_closed_slide_is_an_error(broken: OpenSlideReader) -> None:
    broken.close()
    with pytest.raises(SlideReadError, match="closed"):
        broken.read_level(0, tile(0, 0))


def test_an_open_slide_cannot_be_pickled(broken: OpenSlideReader) -> None:
    with pytest.raises(TypeError, match="send its path"):
        pickle.dumps(broken)
    pickle.dumps(broken.info)
